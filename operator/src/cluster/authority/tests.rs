//! An authority's life, with brokers that do as they are told, in time or late.

use super::*;

const DAY_MS: i64 = 86_400_000;
const NOW_MS: i64 = 1_800_000_000_000;

fn times() -> Times {
    Times {
        validity_ms: 365 * DAY_MS,
        renew_before_ms: 60 * DAY_MS,
        ca_validity_ms: 1825 * DAY_MS,
        ca_renew_before_ms: 180 * DAY_MS,
        ca_overlap_ms: 7 * DAY_MS,
    }
}

fn hosts(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|host| (*host).to_owned()).collect()
}

fn serials(pem: &str) -> BTreeSet<String> {
    let each = pem.split_inclusive("-----END CERTIFICATE-----\n");
    each.map(|one| read(one).expect("a certificate").serial)
        .collect()
}

/// Three brokers, what was written for them, and what they use of it.
struct World {
    authorities: Option<Authorities>,
    told: Option<String>,
    brokers: Vec<(i32, Option<Used>)>,
    written: Vec<(i32, Known)>,
    asked: Option<String>,
    now_ms: i64,
}

impl World {
    fn new() -> Self {
        Self {
            authorities: None,
            told: None,
            brokers: (0..3).map(|id| (id, None)).collect(),
            written: Vec::new(),
            asked: None,
            now_ms: NOW_MS,
        }
    }

    fn step(&mut self) -> Authorities {
        let seen = Seen {
            brokers: &self.brokers,
            written: &self.written,
            told: self.told.as_deref(),
            asked: self.asked.as_deref(),
            cluster: "orders",
        };
        let new = step(self.authorities.as_ref(), &seen, &times(), self.now_ms).expect("a step");
        self.told = Some(new.trusted());
        if let Some(current) = &new.current {
            let signer = read(&current.certificate).expect("an authority");
            for (id, _) in &self.brokers {
                let names = hosts(&["orders.shop.svc", "10.0.0.1"]);
                let at = self.written.iter().position(|(of, _)| of == id);
                let leaf = at.map(|at| &self.written[at].1);
                if !is_stale(leaf, &signer, &names, &times(), self.now_ms) {
                    continue;
                }
                let made = current.issue(("orders", "b"), &names, self.now_ms, times().validity_ms);
                let leaf = read(&made.expect("signed").certificate).expect("a leaf");
                match at {
                    Some(at) => self.written[at].1 = leaf,
                    None => self.written.push((*id, leaf)),
                }
            }
        }
        self.authorities = Some(new.clone());
        new
    }

    /// A broker reads its files.
    fn reads(&mut self, id: i32) {
        let leaf = self.written.iter().find(|(of, _)| *of == id);
        let used = Used {
            shown: leaf
                .map(|(_, leaf)| leaf.serial.clone())
                .into_iter()
                .collect(),
            trusted: serials(self.told.as_deref().expect("it is told")),
        };
        self.brokers[usize::try_from(id).expect("an id")].1 = Some(used);
    }

    fn all_read(&mut self) {
        (0..3).for_each(|id| self.reads(id));
    }

    fn issuers(&self) -> BTreeSet<&str> {
        self.written
            .iter()
            .map(|(_, leaf)| leaf.issuer.as_str())
            .collect()
    }
}

#[test]
fn a_leaf_is_for_its_hosts_and_ends_no_later_than_who_signed_it() {
    let authority = Pair::authority("orders", NOW_MS, 10 * DAY_MS).expect("made");
    let own = read(&authority.certificate).expect("read");
    assert!(own.subject.contains("orders authority "), "{}", own.subject);
    let names = hosts(&["orders-0.shop.svc", "192.168.0.7", "::1"]);
    let leaf = authority
        .issue(("orders", "orders-0"), &names, NOW_MS, 365 * DAY_MS)
        .expect("signed");
    let known = read(&leaf.file()).expect("read");
    assert_eq!(known.hosts, names);
    assert_eq!((known.issuer, known.ends_ms), (own.subject, own.ends_ms));
    assert_eq!(known.subject, "O=orders, CN=orders-0");
    assert!(read("nothing").is_err());
}

#[test]
fn a_leaf_is_made_anew_in_time_and_for_other_hosts() {
    let authority = Pair::authority("orders", NOW_MS, 1825 * DAY_MS).expect("made");
    let signer = read(&authority.certificate).expect("read");
    let names = hosts(&["a"]);
    let leaf = authority
        .issue(("orders", "b"), &names, NOW_MS, 365 * DAY_MS)
        .expect("signed");
    let leaf = read(&leaf.certificate).expect("read");
    let stale = |hosts, days| {
        is_stale(
            Some(&leaf),
            &signer,
            hosts,
            &times(),
            NOW_MS + days * DAY_MS,
        )
    };
    assert!(!stale(&names, 304));
    assert!(stale(&names, 305));
    assert!(stale(&hosts(&["a", "b"]), 0));
    assert!(is_stale(None, &signer, &names, &times(), NOW_MS));
}

#[test]
fn a_change_of_authority_is_believed_by_all_at_every_step() {
    let mut world = World::new();
    let first = world.step();
    assert_eq!(first.before, "");
    world.all_read();
    assert_eq!(world.step(), first, "at rest nothing changes");
    let old: Vec<String> = world.issuers().into_iter().map(str::to_owned).collect();

    // Its end comes near.
    world.now_ms += (1825 - 180) * DAY_MS;
    let both = world.step();
    assert!(both.next.is_some());
    assert_eq!(serials(&both.trusted()).len(), 2);
    assert_eq!(
        world.issuers().into_iter().collect::<Vec<_>>(),
        old,
        "it signs nothing yet"
    );
    // One broker is slow, and clients have a week.
    world.reads(0);
    world.reads(1);
    world.now_ms += 8 * DAY_MS;
    assert_eq!(world.step().current, both.current);
    world.reads(2);
    let signs = world.step();
    assert_ne!(signs.current, both.current);
    assert!(!world.issuers().contains(old[0].as_str()));
    assert_eq!(
        serials(&signs.trusted()).len(),
        2,
        "the old one is believed as long as it is shown"
    );
    world.reads(0);
    world.reads(2);
    assert_eq!(world.step().before, signs.before);
    world.reads(1);
    assert_eq!(world.step().before, "");
    assert_eq!(
        world.step().next,
        None,
        "one change was asked for, and it is done"
    );
}

#[test]
fn a_change_is_asked_for_and_waits_its_time() {
    let mut world = World::new();
    world.step();
    world.all_read();
    world.asked = Some("now".to_owned());
    assert!(world.step().next.is_some());
    world.all_read();
    assert!(world.step().next.is_some(), "clients are given time");
    world.now_ms += 7 * DAY_MS;
    assert!(world.step().next.is_none());
    world.all_read();
    assert_eq!(world.step().before, "");
    assert!(world.step().next.is_none(), "it was asked for once");
}

#[test]
fn a_secret_that_is_lost_is_made_anew_without_a_break() {
    let mut world = World::new();
    world.step();
    world.all_read();
    let shown: Vec<Known> = world.written.iter().map(|(_, leaf)| leaf.clone()).collect();
    world.authorities = None;
    let lost = world.step();
    assert!(lost.current.is_none() && lost.next.is_some());
    let now: Vec<Known> = world.written.iter().map(|(_, leaf)| leaf.clone()).collect();
    assert_eq!(now, shown, "what is shown stays");
    assert!(world.step().current.is_none(), "nobody trusts it yet");
    world.all_read();
    assert!(world.step().current.is_some());
    world.all_read();
    assert_eq!(world.step().before, "");
}
