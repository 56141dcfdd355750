//! Fetch: sessions, long polls with min bytes and max wait, limits in whole batches (KIP-74).

use super::leadership::{Hints, led_elsewhere};
use super::prelude::*;
use crate::fetch::{
    Entry, Found, Interest, Opened, Reader, Slot, Subscription, TopicRef, Wanted, look,
};
use crate::replica::{producers_tag, take_durable};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;
use tidemark_env::clock::Instant;
use tidemark_env::{clock, random};
use tidemark_log::Piece;
use tidemark_model::Image;
use tidemark_wire::Records;
use tidemark_wire::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, NodeEndpoint, PartitionData,
};
use tidemark_wire::messages::{FetchRequest, FetchResponse};
use tokio::sync::Notify;

/// From here on topics are named by id (KIP-516).
const FIRST_VERSION_BY_ID: i16 = 13;
/// From here on there are sessions (KIP-227).
const FIRST_VERSION_OF_SESSIONS: i16 = 7;
/// Sessionless, as a final epoch says it.
const SESSIONLESS_EPOCH: i32 = -1;
const READ_COMMITTED: i8 = 1;
/// From here on consumers name their racks, and followers may answer them (KIP-392).
const FIRST_VERSION_OF_RACKS: i16 = 11;
/// From here on answers say who leads, and where that is (KIP-951).
const FIRST_VERSION_OF_LEADERS: i16 = 12;
const FIRST_VERSION_OF_ENDPOINTS: i16 = 16;

/// How long a follower's fetch that has only a moved high watermark or log start to tell waits for
/// records to tell it with. Under load the next ones are there sooner, and the watermark of each
/// group of records does not cost each follower a fetch of its own.
const WATERMARK_DELAY: Duration = Duration::from_millis(5);

/// The session, if any, that an answer belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// All partitions are in the answer.
    Full { keep: bool },
    /// Only partitions with news are in the answer.
    Incremental { id: i32 },
}

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: FetchRequest,
) -> FetchResponse {
    let by_id = context.version >= FIRST_VERSION_BY_ID;
    let reader = match reader(broker, context, &request) {
        Ok(reader) => reader,
        Err(error) => {
            return FetchResponse {
                error_code: error.code(),
                ..Default::default()
            };
        }
    };
    let epoch = if context.version >= FIRST_VERSION_OF_SESSIONS {
        request.session_epoch
    } else {
        SESSIONLESS_EPOCH
    };
    let opened = broker
        .sessions()
        .open(request.session_id, epoch, by_id, clock::now_ms());
    let (kind, mut interest) = match opened {
        Opened::Sessionless => (Kind::Full { keep: false }, Interest::default()),
        Opened::New => (Kind::Full { keep: true }, Interest::default()),
        Opened::Incremental(interest) => (
            Kind::Incremental {
                id: request.session_id,
            },
            interest,
        ),
        Opened::Refused(error) => {
            return FetchResponse {
                error_code: error.code(),
                ..Default::default()
            };
        }
    };
    let mut candidates = take_wishes(&mut interest, by_id, &request);
    let served = serve(
        broker,
        context,
        &reader,
        &mut interest,
        &mut candidates,
        &request,
    )
    .await;
    let image = broker.image();
    let mut hints = Hints::default();
    let mut response = FetchResponse::default();
    let read_committed = request.isolation_level == READ_COMMITTED;
    let mut topics: Vec<(TopicRef, FetchableTopicResponse, Vec<Piece>)> = Vec::new();
    for (slot, mut found) in served {
        let Some(entry) = interest.entry(slot).filter(|_| !found.silent) else {
            continue;
        };
        let news = found.bytes > 0
            || found.error != ErrorCode::None
            || found.diverging.is_some()
            || found.preferred >= 0
            || entry.told_high_watermark != found.high_watermark
            || entry.told_log_start != found.log_start;
        if matches!(kind, Kind::Incremental { .. }) && !news {
            continue;
        }
        // An error is told again and again until it is gone.
        let told = found.error == ErrorCode::None;
        entry.told_high_watermark = if told { found.high_watermark } else { -1 };
        entry.told_log_start = if told { found.log_start } else { -1 };
        let topic = entry.wanted.topic.clone();
        let pieces = std::mem::take(&mut found.pieces);
        let mut data = partition_data(entry.wanted.index, &found, read_committed);
        if context.version < FIRST_VERSION_OF_RACKS {
            data.preferred_read_replica = -1;
        }
        if context.version >= FIRST_VERSION_OF_LEADERS && led_elsewhere(found.error) {
            let known = match &topic {
                TopicRef::Id(id) => image.topic_by_id(*id),
                TopicRef::Name(name) => image.topic(name),
            };
            let partition = known.and_then(|topic| topic.partition(entry.wanted.index));
            if let Some(partition) = partition {
                hints.add(partition);
                data.current_leader.leader_id = partition.leader;
                data.current_leader.leader_epoch = partition.leader_epoch;
            }
        }
        match topics.iter_mut().rev().find(|(other, ..)| *other == topic) {
            Some((_, of_topic, announced)) => {
                of_topic.partitions.push(data);
                announced.extend(pieces);
            }
            None => {
                let mut of_topic = FetchableTopicResponse {
                    partitions: vec![data],
                    ..Default::default()
                };
                match &topic {
                    TopicRef::Id(id) => of_topic.topic_id = *id,
                    TopicRef::Name(name) => of_topic.topic = name.clone(),
                }
                topics.push((topic, of_topic, pieces));
            }
        }
    }
    if context.version >= FIRST_VERSION_OF_ENDPOINTS {
        let endpoints = hints
            .endpoints(broker, &context.listener)
            .map(|(id, at, rack)| NodeEndpoint {
                node_id: id,
                host: at.host,
                port: i32::from(at.port),
                rack,
                ..Default::default()
            });
        response.node_endpoints = endpoints.collect();
    }
    for (_, topic, pieces) in topics {
        response.responses.push(topic);
        context.announce(pieces);
    }
    match kind {
        Kind::Full { keep: false } => {}
        Kind::Full { keep: true } => {
            response.session_id = keep(broker, &reader, interest, by_id);
        }
        Kind::Incremental { id } => {
            response.session_id = id;
            broker.sessions().put_back(id, interest);
        }
    }
    response
}

/// Who asks. A follower is known by its number and the epoch of its process.
fn reader(broker: &Broker, context: &Context, request: &FetchRequest) -> Result<Reader, ErrorCode> {
    let (id, epoch) = match &request.replica_state {
        state if state.replica_id >= 0 => (state.replica_id, state.replica_epoch),
        _ if request.replica_id >= 0 => (request.replica_id, -1),
        _ => {
            return Ok(Reader::Consumer {
                rack: request.rack_id.clone(),
                from_follower: context.version >= FIRST_VERSION_OF_RACKS,
            });
        }
    };
    match broker.image().broker(id) {
        Some(known) if known.epoch > epoch => Err(ErrorCode::StaleBrokerEpoch),
        // Registered since what is known here; each partition says whether it can be.
        Some(_) => Ok(Reader::Follower { broker: id }),
        None => Err(ErrorCode::StaleBrokerEpoch),
    }
}

fn keep(broker: &Broker, reader: &Reader, interest: Interest<Subscription>, by_id: bool) -> i32 {
    let id = (random::u64() >> 33) as i32;
    if let Reader::Follower { .. } = reader {
        let now_ms = clock::now_ms();
        let kept = by_id && broker.sessions().keep_for_follower(id, interest, now_ms);
        return if kept { id } else { 0 };
    }
    let most = broker.settings().max_incremental_fetch_session_cache_slots;
    let kept = interest.len() > 0
        && broker
            .sessions()
            .keep_new(id, interest, by_id, most, clock::now_ms());
    // 0 tells the client that there is no session: it goes on with full requests.
    if kept { id } else { 0 }
}

/// Takes over what the request adds, changes and forgets; gives the slots to look at.
fn take_wishes(
    interest: &mut Interest<Subscription>,
    by_id: bool,
    request: &FetchRequest,
) -> Vec<Slot> {
    let reference = |id: Uuid, name: &str| match by_id {
        true => TopicRef::Id(id),
        false => TopicRef::Name(name.to_string()),
    };
    for topic in &request.forgotten_topics_data {
        let topic_ref = reference(topic.topic_id, &topic.topic);
        topic
            .partitions
            .iter()
            .for_each(|index| interest.forget(&topic_ref, *index));
    }
    let mut candidates = Vec::new();
    for topic in &request.topics {
        let topic_ref = reference(topic.topic_id, &topic.topic);
        for partition in &topic.partitions {
            candidates.push(
                interest.want(Wanted {
                    topic: topic_ref.clone(),
                    index: partition.partition,
                    fetch_offset: partition.fetch_offset,
                    max_bytes: partition.partition_max_bytes,
                    current_leader_epoch: partition.current_leader_epoch,
                    last_fetched_epoch: partition.last_fetched_epoch,
                    follower: take_durable(&partition.unknown_tagged_fields)
                        .map(|durable| (partition.log_start_offset, durable)),
                }),
            );
        }
    }
    candidates
}

/// Looks at candidates, and at what becomes ready, until there is enough or the time is up.
async fn serve(
    broker: &Arc<Broker>,
    context: &Context,
    reader: &Reader,
    interest: &mut Interest<Subscription>,
    candidates: &mut Vec<Slot>,
    request: &FetchRequest,
) -> Vec<(Slot, Found)> {
    let mut deadline =
        clock::monotonic() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let limit = request.max_bytes.min(broker.settings().fetch_max_bytes);
    let limit = usize::try_from(limit).unwrap_or(0);
    let enough = usize::try_from(request.min_bytes).unwrap_or(0);
    let signal = Arc::clone(&interest.signal);
    let (follows, impatience) = match reader {
        Reader::Follower { broker: id } => {
            (true, Some(broker.partitions.replicas().impatience(*id)))
        }
        Reader::Consumer { .. } => (false, None),
    };
    let mut order: Vec<Slot> = Vec::new();
    let mut answers: BTreeMap<Slot, Found> = BTreeMap::new();
    let mut bytes = 0;
    let mut later = Vec::new();
    // Those that the replication rate holds back, and when the first may be given something.
    let (mut held_back, mut over_at) = (Vec::new(), None::<Instant>);
    loop {
        if over_at.is_some_and(|at| at <= clock::monotonic()) {
            candidates.append(&mut held_back);
            over_at = None;
        }
        candidates.extend(signal.take());
        interest.take_turns(candidates);
        let (mut news, mut moved) = (false, false);
        for slot in candidates.drain(..) {
            // What it holds is given back before more is taken.
            if let Some(earlier) = answers.remove(&slot) {
                bytes -= earlier.size_bytes();
            } else {
                order.push(slot);
            }
            let room = limit.saturating_sub(bytes);
            let found = look_at(broker, reader, interest, slot, room, bytes == 0).await;
            bytes += found.size_bytes();
            news |=
                found.error != ErrorCode::None || found.diverging.is_some() || found.preferred >= 0;
            let entry = interest.entry(slot);
            moved |= follows && entry.is_some_and(|entry| entry.would_hear(&found));
            if let Some(wait) = found.wait {
                let at = clock::monotonic() + wait;
                over_at = Some(over_at.map_or(at, |other| other.min(at)));
                held_back.push(slot);
            }
            if found.more && found.bytes == 0 || found.error != ErrorCode::None {
                // No room in this answer, or not well: it is looked at in the next.
                later.push(slot);
            }
            answers.insert(slot, found);
        }
        if news || bytes >= enough || bytes >= limit || interest.len() == 0 {
            break;
        }
        if moved {
            deadline = deadline.min(clock::monotonic() + WATERMARK_DELAY);
        }
        let over_at = over_at.filter(|at| *at < deadline);
        tokio::select! {
            () = signal.changed() => {}
            () = clock::sleep_until(over_at.unwrap_or(deadline)), if over_at.is_some() => {}
            () = clock::sleep_until(deadline) => break,
            () = hurried(impatience.as_deref()) => break,
        }
    }
    for (slot, found) in &mut answers {
        if let Some(permit) = found.held.take() {
            context.hold(permit);
        }
        if found.bytes > 0 {
            interest.served(*slot);
            // The client may throw the answer away and ask from the same offset again, which an
            // incremental request does not say.
            later.push(*slot);
        }
    }
    later.append(&mut held_back);
    later.into_iter().for_each(|slot| signal.mark(slot));
    order
        .into_iter()
        .filter_map(|slot| answers.remove(&slot).map(|found| (slot, found)))
        .collect()
}

/// Waits until the follower has more to ask; for ever for a consumer.
async fn hurried(impatience: Option<&Notify>) {
    match impatience {
        Some(impatience) => impatience.notified().await,
        None => std::future::pending().await,
    }
}

async fn look_at(
    broker: &Arc<Broker>,
    reader: &Reader,
    interest: &mut Interest<Subscription>,
    slot: Slot,
    room: usize,
    at_least_one_batch: bool,
) -> Found {
    let signal = Arc::clone(&interest.signal);
    let Some(entry) = interest.entry(slot) else {
        return Found::error(ErrorCode::None);
    };
    if entry.partition.is_none() {
        match find(broker, &broker.image(), &entry.wanted) {
            Ok(partition) => {
                let subscription = Subscription::new(partition, signal, slot, reader.wants());
                entry.partition = Some(subscription);
            }
            Err(error) => return Found::error(error),
        }
    }
    let Some(subscription) = &entry.partition else {
        return Found::error(ErrorCode::UnknownServerError);
    };
    let partition = Arc::clone(&subscription.partition);
    let wanted = entry.wanted.clone();
    let most = usize::try_from(wanted.max_bytes).unwrap_or(0).min(room);
    let found = look(
        broker,
        &partition,
        reader,
        &wanted,
        most,
        at_least_one_batch,
    )
    .await;
    if found.error == ErrorCode::NotLeaderOrFollower
        && let Some(entry) = interest.entry(slot)
    {
        // The topic may have been deleted and created again: look it up anew next time.
        entry.partition = None;
        return find(broker, &broker.image(), &wanted).map_or_else(Found::error, |_| found);
    }
    found
}

fn find(
    broker: &Broker,
    image: &Image,
    wanted: &Wanted,
) -> Result<Arc<crate::partition::Partition>, ErrorCode> {
    let (topic, missing) = match &wanted.topic {
        TopicRef::Id(id) => (image.topic_by_id(*id), ErrorCode::UnknownTopicId),
        TopicRef::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
    };
    let topic = topic.ok_or(missing)?;
    broker.partitions.find(image, topic.id, wanted.index)
}

fn partition_data(index: i32, found: &Found, read_committed: bool) -> PartitionData {
    let diverging = found.diverging.map(|(epoch, end_offset)| EpochEndOffset {
        epoch,
        end_offset,
        ..Default::default()
    });
    PartitionData {
        partition_index: index,
        error_code: found.error.code(),
        high_watermark: found.high_watermark,
        // There are no transactions yet, so everything committed is stable. A follower outside of
        // the log is told where that ends.
        last_stable_offset: match found.end {
            -1 => found.high_watermark,
            end => end,
        },
        preferred_read_replica: found.preferred,
        log_start_offset: found.log_start,
        diverging_epoch: diverging.unwrap_or_default(),
        aborted_transactions: read_committed.then(Vec::new),
        records: Some(match found.bytes {
            0 => Records::default(),
            bytes => Records::Elsewhere(bytes),
        }),
        unknown_tagged_fields: found
            .producers
            .clone()
            .map(producers_tag)
            .unwrap_or_default(),
        ..Default::default()
    }
}

impl Entry<Subscription> {
    /// Whether a follower that was answered before would learn something.
    fn would_hear(&self, found: &Found) -> bool {
        found.high_watermark >= 0
            && (self.told_high_watermark != found.high_watermark
                || self.told_log_start != found.log_start)
    }
}

impl Broker {
    fn sessions(&self) -> std::sync::MutexGuard<'_, crate::fetch::Sessions<Subscription>> {
        self.fetch_sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetch sessions that are open.
    pub(crate) fn fetch_session_count(&self) -> usize {
        self.sessions().count().0
    }
}
