//! The topics of the cluster as this process knows them, by number, and how topics are made. What the cluster says of a topic is believed
//! until it is asked again, but for its end: that of a partition which this process has written to is never behind what it wrote.

use super::super::topic::is_topic_name;
use super::super::{Cleanup, Error, TopicId, TopicInfo, TopicSpec};
use super::cluster::Cluster;
use super::config::{AROUND, KafkaConfig, LITTLE_AROUND, MAX_MESSAGE_BYTES};
use super::native::{Described, Resource, Settings};
use crate::{Offset, Partition};
use parking_lot::{Mutex, RwLock};
use rdkafka::types::RDKafkaErrorCode as Code;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Compacted topics are compacted in files of this size, in bytes, so that a changelog does not wait for a gigabyte.
const COMPACTED_SEGMENT_BYTES: usize = 50 << 20;

/// All topics that were asked for.
#[derive(Default)]
pub(super) struct Topics {
    known: RwLock<Known>,
    /// Where partitions end at least, since this process has committed up to there.
    committed: Mutex<FxHashMap<(TopicId, Partition), Offset>>,
}

#[derive(Default)]
struct Known {
    infos: Vec<TopicInfo>,
    names: FxHashMap<Arc<str>, TopicId>,
}

impl Topics {
    /// The topic of a number.
    pub(super) fn get(&self, id: TopicId) -> Result<TopicInfo, Error> {
        let known = self.known.read();
        known.infos.get(id.0 as usize).cloned().ok_or_else(|| Error::UnknownTopic { topic: format!("number {}", id.0) })
    }

    /// A topic that has this partition.
    pub(super) fn find(&self, id: TopicId, partition: Partition) -> Result<TopicInfo, Error> {
        let topic = self.get(id)?;
        if partition.0 < topic.partitions {
            return Ok(topic);
        }
        Err(Error::UnknownPartition { topic: topic.name, partition, partitions: topic.partitions })
    }

    fn learn(&self, config: &KafkaConfig, described: &Described, settings: &Settings) -> TopicInfo {
        let (cleanup, max_record_bytes) = (cleanup_of(settings), takes(config, settings));
        let mut known = self.known.write();
        let name: Arc<str> = described.name.as_str().into();
        let next = TopicId(known.infos.len() as u32);
        let id = *known.names.entry(Arc::clone(&name)).or_insert(next);
        let info = TopicInfo { name, id, uuid: described.uuid, partitions: described.partitions, cleanup, max_record_bytes };
        if id == next {
            known.infos.push(info.clone());
        } else {
            known.infos[id.0 as usize] = info.clone();
        }
        info
    }

    /// All partitions of all topics that were asked for.
    pub(super) fn partitions(&self) -> Vec<(Arc<str>, i32, i64)> {
        let known = self.known.read();
        let of = |topic: &TopicInfo| {
            (0..topic.partitions as i32).map(|partition| (Arc::clone(&topic.name), partition, 0)).collect::<Vec<_>>()
        };
        known.infos.iter().flat_map(of).collect()
    }

    /// Notes that this process has committed up to here.
    pub(super) fn committed(&self, topic: TopicId, partition: Partition, end: Offset) {
        let mut committed = self.committed.lock();
        let known = committed.entry((topic, partition)).or_insert(end);
        *known = end.max(*known);
    }

    /// Where a partition ends at least.
    pub(super) fn committed_end(&self, topic: TopicId, partition: Partition) -> Offset {
        self.committed.lock().get(&(topic, partition)).copied().unwrap_or(Offset(0))
    }
}

/// The topic of this name.
pub(super) fn look_up(cluster: &Cluster, topics: &Topics, name: &str) -> Result<Option<TopicInfo>, Error> {
    if !is_topic_name(name) {
        return Ok(None);
    }
    Ok(look_up_all(cluster, topics, &[name])?.pop())
}

/// The topics of these names, as far as they exist.
pub(super) fn look_up_all(cluster: &Cluster, topics: &Topics, names: &[&str]) -> Result<Vec<TopicInfo>, Error> {
    let what = if names.len() == 1 { names[0] } else { "topics" };
    let found = cluster.ask(what, |client, timeout| client.describe_topics(names, timeout))?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let existing: Vec<&str> = found.iter().map(|topic| topic.name.as_str()).collect();
    let settings = cluster.ask(what, |client, timeout| client.settings(Resource::Topic, &existing, timeout))?;
    Ok(found.iter().zip(&settings).map(|(topic, settings)| topics.learn(&cluster.config, topic, settings)).collect())
}

/// Makes topics, or finds them: all of them at once, for brokers take their time to make one.
pub(super) fn create(cluster: &Cluster, topics: &Topics, specs: &[TopicSpec]) -> Result<Vec<TopicInfo>, Error> {
    for spec in specs {
        let invalid = |reason| Err(Error::InvalidTopic { topic: spec.name.clone(), reason });
        if !is_topic_name(&spec.name) {
            return invalid("a name is 1 to 249 letters, digits, '.', '_' or '-'");
        }
        if spec.partitions == 0 {
            return invalid("it needs at least one partition");
        }
    }
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let found = look_up_all(cluster, topics, &names)?;
    let of = |topics: &[TopicInfo], spec: &TopicSpec| topics.iter().find(|topic| *topic.name == *spec.name).cloned();
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for spec in specs {
        match of(&found, spec) {
            Some(topic) => there.push(keep(cluster, topics, topic, spec)?),
            None => missing.push(spec),
        }
    }
    let made = make(cluster, topics, &missing)?;
    for spec in missing {
        // Somebody else may have been there first.
        of(&made, spec).map_or(Ok(()), |topic| fits(&topic, spec))?;
    }
    let all = specs
        .iter()
        .map(|spec| of(&there, spec).or_else(|| of(&made, spec)).ok_or_else(|| Error::UnknownTopic { topic: spec.name.clone() }));
    all.collect()
}

/// Whether a topic is what is wanted, but for how long it keeps its records.
fn fits(found: &TopicInfo, spec: &TopicSpec) -> Result<(), Error> {
    if found.partitions == spec.partitions && found.cleanup.same_policy(spec.cleanup) {
        return Ok(());
    }
    let says = |partitions, cleanup: Cleanup| format!("{partitions} partitions and cleanup by {cleanup}");
    Err(Error::TopicDiffers {
        topic: Arc::clone(&found.name),
        found: says(found.partitions, found.cleanup),
        wanted: says(spec.partitions, spec.cleanup),
    })
}

/// Sees to it that a topic which exists keeps its records for as long as is wanted.
fn keep(cluster: &Cluster, topics: &Topics, found: TopicInfo, spec: &TopicSpec) -> Result<TopicInfo, Error> {
    fits(&found, spec)?;
    if found.cleanup == spec.cleanup {
        return Ok(found);
    }
    set(cluster, topics, &spec.name, &keeping(spec.cleanup), |settings| cleanup_of(settings) == spec.cleanup)
}

/// Lets a topic take records of so many bytes.
pub(super) fn widen(cluster: &Cluster, topics: &Topics, topic: &TopicInfo, max_record_bytes: usize) -> Result<TopicInfo, Error> {
    if topic.max_record_bytes >= max_record_bytes {
        return Ok(topic.clone());
    }
    let max = (max_record_bytes + AROUND).to_string();
    let settings = vec![("max.message.bytes".to_owned(), max.clone())];
    set(cluster, topics, &topic.name, &settings, |settings| value(settings, "max.message.bytes") == max)
}

/// Sets these settings of a topic, and waits until they are so.
fn set(
    cluster: &Cluster,
    topics: &Topics,
    name: &str,
    settings: &Settings,
    are_so: impl Fn(&Settings) -> bool,
) -> Result<TopicInfo, Error> {
    cluster.ask(name, |client, timeout| client.set(Resource::Topic, name, settings, timeout))?;
    // They are known to the controller and come to the brokers a moment later.
    cluster.ask_until(name, |client, timeout| {
        let settings = client.settings(Resource::Topic, &[name], timeout)?;
        Ok(settings.first().is_some_and(&are_so).then_some(()))
    })?;
    look_up(cluster, topics, name)?.ok_or_else(|| Error::UnknownTopic { topic: name.to_owned() })
}

/// Deletes topics, and waits until the brokers know that they are gone: one of the same name may be made right after.
pub(super) fn delete(cluster: &Cluster, names: &[&str]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    cluster.ask("deleting topics", |client, timeout| client.delete_topics(names, timeout))?;
    cluster.ask_until("deleting topics", |client, timeout| Ok(client.describe_topics(names, timeout)?.is_empty().then_some(())))
}

/// Makes topics that did not exist a moment ago, and waits until the brokers know them.
fn make(cluster: &Cluster, topics: &Topics, specs: &[&TopicSpec]) -> Result<Vec<TopicInfo>, Error> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let copies = cluster.config.replication_factor;
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let wanted = |with_any_time: bool| {
        let settings = |cleanup: Cleanup| {
            let mut settings = keeping(cleanup);
            settings.push(("max.message.bytes".into(), MAX_MESSAGE_BYTES.to_string()));
            settings.push(("message.timestamp.type".into(), "CreateTime".into()));
            if matches!(cleanup, Cleanup::Compact { .. }) {
                settings.push(("segment.bytes".into(), COMPACTED_SEGMENT_BYTES.to_string()));
            }
            // Event times are what they are; brokers of 4.0 and later otherwise refuse those an hour ahead.
            if with_any_time {
                settings.push(("message.timestamp.after.max.ms".into(), i64::MAX.to_string()));
            }
            settings
        };
        specs.iter().map(|spec| (spec.name.as_str(), spec.partitions, settings(spec.cleanup))).collect::<Vec<_>>()
    };
    let (with_any_time, without) = (wanted(true), wanted(false));
    let what = names.join(", ");
    cluster.ask(&format!("creating topic {what}"), |client, timeout| {
        match client.create_topics(&with_any_time, copies, timeout) {
            // Brokers before 3.6 do not know that setting and have no such bound.
            Err(failure) if failure.code == Code::InvalidConfig => client.create_topics(&without, copies, timeout),
            other => other,
        }
    })?;
    let described = cluster.ask_until(&what, |client, timeout| {
        let described = client.describe_topics(&names, timeout)?;
        Ok((described.len() == names.len()).then_some(described))
    })?;
    let names: Vec<&str> = described.iter().map(|topic| topic.name.as_str()).collect();
    let settings = cluster.ask_until(&what, |client, timeout| match client.settings(Resource::Topic, &names, timeout) {
        Err(failure) if failure.code == Code::UnknownTopicOrPartition => Ok(None),
        other => other.map(Some),
    })?;
    Ok(described.iter().zip(&settings).map(|(topic, settings)| topics.learn(&cluster.config, topic, settings)).collect())
}

/// The settings that make a topic forget like this.
fn keeping(cleanup: Cleanup) -> Settings {
    let set = |name: &str, value: String| (name.to_owned(), value);
    let or_all = |limit: Option<u64>| limit.map_or("-1".to_owned(), |limit| limit.min(i64::MAX as u64).to_string());
    match cleanup {
        Cleanup::Delete { retention_ms, retention_bytes } => vec![
            set("cleanup.policy", "delete".into()),
            set("retention.ms", or_all(retention_ms)),
            set("retention.bytes", or_all(retention_bytes)),
        ],
        Cleanup::Compact { delete_retention_ms } => vec![
            set("cleanup.policy", "compact".into()),
            set("delete.retention.ms", delete_retention_ms.min(i64::MAX as u64).to_string()),
        ],
    }
}

/// The value of a setting, or nothing.
fn value<'a>(settings: &'a Settings, name: &str) -> &'a str {
    settings.iter().find(|(of, _)| of == name).map_or("", |(_, value)| value.as_str())
}

/// How large a record may be in a topic of these settings, in bytes: what the topic takes, and no more than can be sent from here.
fn takes(config: &KafkaConfig, settings: &Settings) -> usize {
    let max = value(settings, "max.message.bytes").parse().unwrap_or(MAX_MESSAGE_BYTES).min(config.most_at_once());
    max - if max < MAX_MESSAGE_BYTES { LITTLE_AROUND.min(max / 8) } else { AROUND }
}

/// What a topic of these settings forgets. One that is compacted and deleted from counts as compacted: its records need keys.
fn cleanup_of(settings: &Settings) -> Cleanup {
    // -1 is without bound, and no u64.
    let limit = |name: &str| value(settings, name).parse().ok();
    if value(settings, "cleanup.policy").contains("compact") {
        Cleanup::Compact { delete_retention_ms: limit("delete.retention.ms").unwrap_or(86_400_000) }
    } else {
        Cleanup::Delete { retention_ms: limit("retention.ms"), retention_bytes: limit("retention.bytes") }
    }
}
