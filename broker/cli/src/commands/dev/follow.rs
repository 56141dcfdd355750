//! Brings topics and groups to what a file says, again and again: what the operator does, with a
//! file in the place of Kubernetes.
//!
//! What it decides are the plans of `tidemark_crds`, and what it does to brokers is the operator's
//! own code. What has to be remembered is in a file in the data directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemark_client::Cluster as Client;
use tidemark_crds::group::{
    Decision, Record, Standing, View, lag, populated, standing, stuck, within_bounds,
};
use tidemark_crds::manifest::{Name, Resource};
use tidemark_crds::topic::{Step, plan, validate};
use tidemark_crds::{ConsumerGroup, Invalid, Topic};
use tidemark_env::disk::{Disk, FileDisk, read_file, write_file_atomic};
use tidemark_env::{clock, task};
use tidemark_operator::group::Memory;

use super::file::{self, Brokers, Contents};
use crate::context::Context;
use crate::failure::Failure;

/// Name of the file in the data directory that says what was done for resources.
const MEMORY: &str = "dev-resources.json";
/// Longest file of ours that is read.
const MOST_BYTES: usize = 16 << 20;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How often brokers are asked though the file has not changed: somebody else may have changed a
/// topic, and a reset may wait for members to go.
const AGAIN_MS: i64 = 5_000;
/// For how many looks a file may be away: editors put another one in its place.
const PATIENT_LOOKS: u32 = 5;
/// The annotation that approves changes that delete records.
const APPROVE: &str = "tidemark.dev/approve";

/// What is kept of what was done for resources.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    /// The ids of topics that were made or taken over.
    topics: BTreeMap<String, String>,
    /// The last reset of each group.
    resets: BTreeMap<String, Record>,
}

/// A line of what was done or is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// Of which resource.
    about: String,
    /// A word: made, changed, waits …
    did: &'static str,
    /// The rest.
    text: String,
    /// What stays so is said once: `None` for what was done, and is said each time.
    mark: Option<(&'static str, String)>,
}

impl Line {
    fn done(about: &Name, did: &'static str, text: impl Into<String>) -> Self {
        Self {
            about: about.to_string(),
            did,
            text: text.into(),
            mark: None,
        }
    }

    /// Something that is so about `part` of a resource.
    fn is(about: &Name, part: &'static str, did: &'static str, text: impl Into<String>) -> Self {
        let line = Self::done(about, did, text);
        let mark = Some((part, format!("{did} {}", line.text)));
        Self { mark, ..line }
    }

    fn shown(&self) -> String {
        format!("{:<28} {:<8} {}", self.about, self.did, self.text)
            .trim_end()
            .to_owned()
    }
}

/// A file that is followed.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    data: PathBuf,
    text: String,
    contents: Contents,
    brokers: Brokers,
    notes: Vec<String>,
    bootstrap: String,
    /// What was accepted last, for what may not change.
    accepted: BTreeMap<Name, Resource>,
    /// What was said of each part of each resource.
    said: BTreeMap<(String, &'static str), String>,
    /// Where groups were seen to stand.
    standing: BTreeMap<String, Standing>,
    done: Done,
}

impl Follower {
    /// Reads a file that is to be applied to brokers with their data in `data`.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds anything that would be refused.
    pub async fn open(path: &Path, data: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |error: std::io::Error| Failure::file(&name, &error);
        let text = read_text(path).await?.map_err(failed)?;
        let wrong = |says: String| Failure::usage(format!("{name}: {says}"));
        let contents = file::read(&text, &BTreeMap::new()).map_err(wrong)?;
        if !contents.refused.is_empty() {
            let each = contents.refused.iter();
            let each = each.map(|(what, why)| format!("{what}: {why}"));
            let all = each.collect::<Vec<_>>().join("\n  ");
            return Err(wrong(format!("\n  {all}")).next("cat docs/resources.md"));
        }
        // The bucket's URL is in the brokers' settings.
        let data = std::path::absolute(data).map_err(failed)?;
        let cluster = contents.cluster().map_err(wrong)?;
        let (brokers, more) = file::brokers(cluster, &data).map_err(wrong)?;
        let mut notes = contents.notes.clone();
        notes.extend(more);
        let at = data.clone();
        let done = task::blocking(move || read_done(&FileDisk::new(), &at)).await;
        Ok(Self {
            path: path.to_owned(),
            data,
            text,
            accepted: contents.resources.iter().cloned().collect(),
            contents,
            brokers,
            notes,
            bootstrap: String::new(),
            said: BTreeMap::new(),
            standing: BTreeMap::new(),
            done: done.map_err(Failure::bug)??,
        })
    }

    /// What is to be started.
    pub fn cluster(&self) -> &Brokers {
        &self.brokers
    }

    /// The first topic of the file, for what to type next.
    pub fn first_topic(&self) -> Option<&str> {
        self.contents
            .topics()
            .next()
            .map(|(_, topic)| topic.topic_name())
    }

    /// Applies the file for the first time, to brokers that serve; what there is to say.
    pub async fn begin(&mut self, bootstrap: String, context: &Context) -> Vec<String> {
        self.bootstrap = bootstrap;
        let mut lines: Vec<String> = self
            .notes
            .iter()
            .map(|note| format!("note:  {note}"))
            .collect();
        lines.extend(self.pass(context).await);
        lines
    }

    /// Follows the file until the end of time.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub async fn follow(mut self, context: &mut Context) -> Result<(), Failure> {
        let mut candidate = None;
        let (mut away, mut asked_ms) = (0, clock::now_ms());
        loop {
            clock::sleep(LOOK).await;
            let mut lines = Vec::new();
            match read_text(&self.path).await? {
                Ok(text) => {
                    away = 0;
                    // Twice the same: it is not being written just now.
                    if text != self.text && candidate.replace(text.clone()) == Some(text.clone()) {
                        lines = self.take(text);
                        asked_ms = 0;
                    }
                }
                Err(error) => {
                    away += 1;
                    if away == PATIENT_LOOKS {
                        lines.push(format!(
                            "{} cannot be read: {error}; what it said last holds",
                            self.path.display()
                        ));
                    }
                }
            }
            if clock::now_ms().abs_diff(asked_ms) >= AGAIN_MS.unsigned_abs() {
                lines.extend(self.pass(context).await);
                asked_ms = clock::now_ms();
            }
            for line in &lines {
                context.out.line(line)?;
            }
            if !lines.is_empty() {
                context.out.flush()?;
            }
        }
    }

    /// Takes an edit of the file: what of it is refused, and what has to wait.
    fn take(&mut self, text: String) -> Vec<String> {
        let path = self.path.display().to_string();
        let read = file::read(&text, &self.accepted);
        self.text = text;
        let kept = |says: String| vec![format!("{path} was not applied: {says}")];
        let contents = match read {
            Ok(contents) => contents,
            Err(says) => return kept(says),
        };
        let brokers = contents
            .cluster()
            .and_then(|cluster| file::brokers(cluster, &self.data));
        let (brokers, more) = match brokers {
            Ok(brokers) => brokers,
            // Why is said below, where the Cluster itself was refused.
            Err(says) if contents.refused.is_empty() => return kept(says),
            Err(_) => (self.brokers.clone(), Vec::new()),
        };
        let mut lines = Vec::new();
        for note in contents.notes.iter().chain(&more) {
            if !self.notes.contains(note) {
                lines.push(format!("note:  {note}"));
                self.notes.push(note.clone());
            }
        }
        let refused = contents.refused.iter();
        lines.extend(
            refused.map(|(name, why)| Line::done(name, "refused", why.to_string()).shown()),
        );
        if let Ok(cluster) = contents.cluster()
            && brokers != self.brokers
        {
            let name = format!(
                "Cluster {}",
                cluster.metadata.name.as_deref().unwrap_or_default()
            );
            let line = Line {
                about: name,
                did: "waits",
                text: "brokers and their settings are of the start: stop this with Ctrl-C and start it again".to_owned(),
                mark: None,
            };
            lines.push(line.shown());
        }
        self.accepted.extend(contents.resources.iter().cloned());
        self.contents = contents;
        lines
    }

    /// Brings everything to what the file says; what is new to say of it.
    async fn pass(&mut self, context: &Context) -> Vec<String> {
        let client = match Client::connect(&self.bootstrap, context.cluster_options()).await {
            Ok(client) => client,
            Err(error) => {
                let line = Line::is(&self.brokers_name(), "state", "silent", error.to_string());
                return match self.is_news(&line) {
                    true => vec![line.shown()],
                    false => Vec::new(),
                };
            }
        };
        // Should they fall silent once more, that is news.
        self.said
            .remove(&(self.brokers_name().to_string(), "state"));
        let contents = std::mem::take(&mut self.contents);
        let mut lines = Vec::new();
        for (name, topic) in contents.topics() {
            match self.topic(&client, name, topic).await {
                Ok(of_topic) => lines.extend(of_topic),
                Err(failure) => lines.push(Line::is(name, "state", "refused", failure.message)),
            }
        }
        for (name, group) in contents.groups() {
            match self.group(&client, name, group).await {
                Ok(of_group) => lines.extend(of_group),
                Err(failure) => lines.push(Line::is(name, "state", "refused", failure.message)),
            }
        }
        self.contents = contents;
        lines.retain(|line| self.is_news(line));
        lines.iter().map(Line::shown).collect()
    }

    /// The Cluster, whose brokers are spoken of.
    fn brokers_name(&self) -> Name {
        let is_cluster = |name: &&Name| name.kind == "Cluster";
        let name = self.accepted.keys().find(is_cluster);
        // There is one, or nothing would have been started.
        name.cloned().unwrap_or_default()
    }

    fn is_news(&mut self, line: &Line) -> bool {
        let Some((part, mark)) = &line.mark else {
            return true;
        };
        let key = (line.about.clone(), *part);
        self.said.insert(key, mark.clone()).as_ref() != Some(mark)
    }

    async fn topic(
        &mut self,
        client: &Client,
        name: &Name,
        topic: &Topic,
    ) -> Result<Vec<Line>, Failure> {
        let refused =
            |invalid: &Invalid| vec![Line::is(name, "state", "refused", invalid.to_string())];
        let tier = self.accepted.values().find_map(|resource| match resource {
            Resource::Cluster(cluster) => cluster.spec.tier.as_ref(),
            _ => None,
        });
        let wanted = match validate(topic.topic_name(), &topic.spec) {
            Ok(wanted) => wanted.with_defaults(tier),
            Err(invalid) => return Ok(refused(&invalid)),
        };
        let actual = tidemark_operator::topic::observe(client, &wanted.name).await?;
        let policies = (topic.spec.existing, topic.spec.management_policy);
        let known = self.done.topics.get(&wanted.name).map(String::as_str);
        let annotations = topic.metadata.annotations.as_ref();
        let approved = annotations
            .and_then(|all| all.get(APPROVE))
            .map(String::as_str);
        let plan = match plan(&wanted, actual.as_ref(), policies, known, approved) {
            Ok(plan) => plan,
            Err(invalid) => return Ok(refused(&invalid)),
        };
        let mut lines = Vec::new();
        for step in &plan.steps {
            tidemark_operator::topic::carry_out(client, &wanted.name, step).await?;
            let (did, text) = match step {
                Step::Create { .. } => ("made", step.to_string().replacen("made ", "", 1)),
                Step::Grow { .. } => ("grown", step.to_string().replacen("grown ", "", 1)),
                Step::Alter(_) => ("changed", step.to_string()),
            };
            lines.push(Line::done(name, did, text));
        }
        self.know(client, &wanted.name, actual.map(|actual| actual.id))
            .await?;
        let mut waiting = plan
            .pending
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        if let Some(id) = plan.pending_id() {
            waiting.push_str(&format!(
                ". To do it, give the Topic the annotation {APPROVE}: {id}"
            ));
        }
        let drift = plan
            .drift
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        lines.push(match (waiting.is_empty(), drift.is_empty()) {
            (false, _) => Line::is(name, "state", "waits", waiting),
            (true, false) => Line::is(name, "state", "differs", drift.join("; ")),
            (true, true) => {
                let well = Line::is(name, "state", "is so", "nothing to do");
                // Whoever hears that it was made need not hear that it is there.
                if !lines.is_empty() && self.is_news(&well) {
                    return Ok(lines);
                }
                well
            }
        });
        Ok(lines)
    }

    /// Remembers a topic by its id, so that it is no stranger's at the next start.
    async fn know(
        &mut self,
        client: &Client,
        topic: &str,
        id: Option<String>,
    ) -> Result<(), Failure> {
        let id = match id {
            Some(id) => Some(id),
            None => {
                let actual = tidemark_operator::topic::observe(client, topic).await?;
                actual.map(|actual| actual.id)
            }
        };
        // Where it is not seen yet it is in the next pass.
        let Some(id) = id else {
            return Ok(());
        };
        if self.done.topics.get(topic) == Some(&id) {
            return Ok(());
        }
        self.done.topics.insert(topic.to_owned(), id);
        write_done(&self.data, &self.done).await
    }

    async fn group(
        &mut self,
        client: &Client,
        name: &Name,
        group: &ConsumerGroup,
    ) -> Result<Vec<Line>, Failure> {
        let Some((found, view)) =
            tidemark_operator::group::observe(client, group.group_id()).await?
        else {
            return Ok(vec![Line::is(
                name,
                "state",
                "absent",
                "nobody has used the group yet",
            )]);
        };
        let mut lines = vec![Line::is(
            name,
            "state",
            "found",
            format!("{} group", found.group_type),
        )];
        let notebook = Notebook {
            data: &self.data,
            group: group.group_id(),
            done: tokio::sync::Mutex::new(&mut self.done),
        };
        let decision = tidemark_operator::group::reset(client, group, &view, &notebook).await;
        let decision = decision.map_err(|error| Failure::finding(error.to_string()))?;
        match decision {
            Err(invalid) => lines.push(Line::is(name, "reset", "refused", invalid.to_string())),
            Ok(decision) => lines.extend(reset_line(name, group, &decision)),
        }
        let (behind, _) = lag(&view);
        let view = View {
            oldest_ms: tidemark_operator::group::oldest(client, &view).await?,
            ..view
        };
        let now_ms = clock::now_ms();
        let before = self.standing.remove(group.group_id()).unwrap_or_default();
        let stands = standing(&before, &view, now_ms);
        let stuck = stuck(&group.spec, &view, &stands, now_ms);
        self.standing.insert(group.group_id().to_owned(), stands);
        let seen = (&view, stuck.as_deref());
        let bounds = [
            ("lag", within_bounds(&group.spec, &behind, seen, now_ms)),
            (
                "members",
                populated(
                    &group.spec,
                    i32::try_from(found.members.len()).unwrap_or(i32::MAX),
                ),
            ),
        ];
        for (part, bound) in bounds {
            let Some((well, reason, text)) = bound else {
                continue;
            };
            // The numbers move all the time; news is on which side of the bound they are.
            let line = Line::is(name, part, if well { "is well" } else { "warns" }, text);
            let mark = Some((part, reason.to_owned()));
            lines.push(Line { mark, ..line });
        }
        Ok(lines)
    }
}

fn reset_line(name: &Name, group: &ConsumerGroup, decision: &Decision) -> Option<Line> {
    let token = group.spec.reset.as_ref().map(|reset| reset.token.as_str());
    let (status, _) = tidemark_operator::group::reset_status(token?, decision)?;
    let mut text = format!("reset {}: {}", status.token, status.summary);
    if !status.plan.is_empty() {
        text.push_str(&format!(" ({})", status.plan.join(", ")));
    }
    Some(match decision {
        Decision::Apply(_) | Decision::Confirm(_) | Decision::Applied(_) => {
            Line::is(name, "reset", "reset", text)
        }
        Decision::DryRun(_) => {
            text.push_str(". To do it: dryRun: false");
            Line::is(name, "reset", "dry run", text)
        }
        Decision::Refuse(_) | Decision::Refused => Line::is(name, "reset", "refused", text),
        Decision::Expired => Line::is(name, "reset", "expired", text),
        _ => Line::is(name, "reset", "waits", text),
    })
}

/// Where the last reset of one group is remembered.
struct Notebook<'a> {
    data: &'a Path,
    group: &'a str,
    done: tokio::sync::Mutex<&'a mut Done>,
}

impl Memory for Notebook<'_> {
    async fn read(&self) -> Result<Option<Record>, tidemark_operator::Error> {
        Ok(self.done.lock().await.resets.get(self.group).cloned())
    }

    async fn write(&self, record: &Record) -> Result<(), tidemark_operator::Error> {
        let mut done = self.done.lock().await;
        done.resets.insert(self.group.to_owned(), record.clone());
        let written = write_done(self.data, &done).await;
        written.map_err(|failure| tidemark_operator::Error::Malformed(failure.message))
    }
}

async fn read_text(path: &Path) -> Result<std::io::Result<String>, Failure> {
    let path = path.to_owned();
    task::blocking(move || crate::input::read_text(&path))
        .await
        .map_err(Failure::bug)
}

/// What was done before. Blocks.
fn read_done(disk: &dyn Disk, data: &Path) -> Result<Done, Failure> {
    let path = data.join(MEMORY);
    let name = path.display().to_string();
    let failed = |error| Failure::file(&name, &error);
    if !disk.exists(&path).map_err(failed)? {
        return Ok(Done::default());
    }
    let bytes = read_file(disk, &path, MOST_BYTES).map_err(failed)?;
    // A reset that is forgotten would be done again.
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::finding(format!("{name} is not what `tidemark dev` wrote: {error}"))
    })
}

async fn write_done(data: &Path, done: &Done) -> Result<(), Failure> {
    let path = data.join(MEMORY);
    let text = serde_json::to_string_pretty(done).map_err(Failure::bug)?;
    let name = path.display().to_string();
    let written =
        task::blocking(move || write_file_atomic(&FileDisk::new(), &path, text.as_bytes()));
    let written = written.await.map_err(Failure::bug)?;
    written.map_err(|error| Failure::file(&name, &error))
}
