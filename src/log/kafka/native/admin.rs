//! Requests to the cluster: topics, settings, ends of partitions, offsets of groups. Each waits for its answer, and none is repeated here.

use super::client::{Client, listed, partitions, slice};
use super::{Failure, c_string, checked, code, described, millis, text};
use crate::Offset;
use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaErrorCode as Code;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::Duration;

/// Whose transactions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Isolation {
    Committed,
    Uncommitted,
}

/// Which offsets of a group count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Offsets {
    /// The last that were committed, once their transactions are marked.
    Stable,
    /// Those that are marked, whatever is on its way.
    Shown,
}

/// What a topic is.
#[derive(Clone, Debug)]
pub(in super::super) struct Described {
    pub name: String,
    pub uuid: [u8; 16],
    pub partitions: u32,
}

/// What has settings.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Resource {
    Topic,
    Group,
    Broker,
}

/// Names and values.
pub(in super::super) type Settings = Vec<(String, String)>;

type Start<'a> = &'a mut dyn FnMut(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t);

/// The answer to a request; the parts of it that are looked at live as long.
struct Answer(NonNull<sys::rd_kafka_event_t>);

impl Answer {
    fn raw(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the event is ours and given back once.
        unsafe { sys::rd_kafka_event_destroy(self.raw()) };
    }
}

/// A list of librdkafka's objects that are freed with it.
struct Owned<T>(Vec<*mut T>, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        for one in &self.0 {
            // SAFETY: each was made by librdkafka, belongs to this list, and is freed once with the function of its type.
            unsafe { (self.1)(*one) };
        }
    }
}

/// What a question comes to that a leader did not answer.
fn unanswered() -> Failure {
    Failure { text: "a leader did not answer".into(), ..Code::LeaderNotAvailable.into() }
}

/// The longest time that librdkafka takes.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Whether a request is one to a group's coordinator. librdkafka 2.12 ends the process when such a one has timed out before the coordinator
/// was reached, and it is reached later: it calls back twice for it (`rd_kafka_admin_coord_request`, `rd_kafka_coord_req_fail`). So these do
/// not time out there, only here; nobody looks at an answer that comes later.
fn is_of_coordinator(op: sys::rd_kafka_admin_op_t) -> bool {
    use sys::rd_kafka_admin_op_t as Op;
    matches!(op, Op::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS | Op::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS)
}

impl Client {
    fn ask(&self, op: sys::rd_kafka_admin_op_t, timeout: Duration, start: Start<'_>) -> Result<Answer, Failure> {
        self.ask_with(op, timeout, |_| null_mut(), start)
    }

    fn ask_with(
        &self,
        op: sys::rd_kafka_admin_op_t,
        timeout: Duration,
        option: impl Fn(*mut sys::rd_kafka_AdminOptions_t) -> *mut sys::rd_kafka_error_t,
        start: Start<'_>,
    ) -> Result<Answer, Failure> {
        let queue = super::Queue::new(self);
        let mut reason = [0 as c_char; 256];
        // SAFETY: client and queue are valid; the options are freed once, after the request was started, which copies them. The
        // answer that is polled is ours.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(self.raw(), op);
            let patience = if is_of_coordinator(op) { LONGEST } else { timeout };
            sys::rd_kafka_AdminOptions_set_request_timeout(options, millis(patience), reason.as_mut_ptr(), reason.len());
            let chosen = checked(option(options));
            if chosen.is_ok() {
                start(options, queue.raw());
            }
            sys::rd_kafka_AdminOptions_destroy(options);
            chosen?;
            let patience = if is_of_coordinator(op) { timeout } else { timeout + Duration::from_secs(1) };
            let answer = sys::rd_kafka_queue_poll(queue.raw(), millis(patience));
            let answer = Answer(NonNull::new(answer).ok_or(Code::OperationTimedOut)?);
            match code(sys::rd_kafka_event_error(answer.raw())) {
                Ok(()) => Ok(answer),
                Err(failure) => Err(Failure { text: text(sys::rd_kafka_event_error_string(answer.raw())), ..failure }),
            }
        }
    }

    /// Topics by name; those that do not exist are left out.
    pub(in super::super) fn describe_topics(&self, names: &[&str], timeout: Duration) -> Result<Vec<Described>, Failure> {
        let names: Vec<CString> = names.iter().map(|name| c_string(name)).collect();
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the names are valid and copied; the collection is freed once.
        let collection = unsafe { sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) };
        let collection = Owned(vec![collection], sys::rd_kafka_TopicCollection_destroy);
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        // SAFETY: the client and the collection are valid.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_DescribeTopics(self.raw(), collection.0[0], options, queue);
        })?;
        let mut found = Vec::new();
        // SAFETY: the answer is one to this request, and its parts live as long as it does.
        unsafe {
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(
                sys::rd_kafka_event_DescribeTopics_result(answer.raw()),
                &raw mut count,
            );
            for &topic in slice(topics, count) {
                match described(sys::rd_kafka_TopicDescription_error(topic)) {
                    Some(failure) if failure.code == Code::UnknownTopicOrPartition => continue,
                    Some(failure) => return Err(failure),
                    None => {}
                }
                let mut partitions = 0;
                sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
                let id = sys::rd_kafka_TopicDescription_topic_id(topic);
                let half = |bits: i64| (bits as u64).to_be_bytes();
                let mut uuid = [0; 16];
                uuid[..8].copy_from_slice(&half(sys::rd_kafka_Uuid_most_significant_bits(id)));
                uuid[8..].copy_from_slice(&half(sys::rd_kafka_Uuid_least_significant_bits(id)));
                let name = text(sys::rd_kafka_TopicDescription_name(topic));
                found.push(Described { name, uuid, partitions: partitions as u32 });
            }
        }
        Ok(found)
    }

    /// Makes topics of so many partitions each, with these settings; those that exist are left as they are. A replication factor of -1 is the
    /// cluster's own.
    pub(in super::super) fn create_topics(
        &self,
        wanted: &[(&str, u32, Settings)],
        replication: i32,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let mut topics = Owned(Vec::new(), sys::rd_kafka_NewTopic_destroy);
        let mut reason = [0 as c_char; 256];
        for (name, partitions, settings) in wanted {
            let count = i32::try_from(*partitions).unwrap_or(i32::MAX);
            // SAFETY: name and settings are valid and copied; the topic is freed once.
            unsafe {
                let topic =
                    sys::rd_kafka_NewTopic_new(c_string(name).as_ptr(), count, replication, reason.as_mut_ptr(), reason.len());
                if topic.is_null() {
                    return Err(Failure { text: text(reason.as_ptr()), ..Code::InvalidTopic.into() });
                }
                topics.0.push(topic);
                for (name, value) in settings {
                    sys::rd_kafka_NewTopic_set_config(topic, c_string(name).as_ptr(), c_string(value).as_ptr());
                }
            }
        }
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
        // SAFETY: the client and the topics are valid.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_CreateTopics(self.raw(), topics.0.as_mut_ptr(), topics.0.len(), options, queue);
        })?;
        let mut count = 0;
        // SAFETY: the answer is one to this request.
        let results = unsafe {
            let result = sys::rd_kafka_event_CreateTopics_result(answer.raw());
            slice(sys::rd_kafka_CreateTopics_result_topics(result, &raw mut count), count)
        };
        results.iter().try_for_each(|&result| match topic_result(result) {
            Err(failure) if failure.code == Code::TopicAlreadyExists => Ok(()),
            other => other,
        })
    }

    /// Deletes topics, also those that do not exist.
    pub(in super::super) fn delete_topics(&self, names: &[&str], timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the names are valid and copied; each is freed once.
        let topics = names.iter().map(|name| unsafe { sys::rd_kafka_DeleteTopic_new(c_string(name).as_ptr()) }).collect();
        let mut topics = Owned(topics, sys::rd_kafka_DeleteTopic_destroy);
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS;
        // SAFETY: the client and the topics are valid.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_DeleteTopics(self.raw(), topics.0.as_mut_ptr(), topics.0.len(), options, queue);
        })?;
        let mut count = 0;
        // SAFETY: the answer is one to this request.
        let results = unsafe {
            let result = sys::rd_kafka_event_DeleteTopics_result(answer.raw());
            slice(sys::rd_kafka_DeleteTopics_result_topics(result, &raw mut count), count)
        };
        results.iter().try_for_each(|&result| match topic_result(result) {
            Err(failure) if failure.code != Code::UnknownTopicOrPartition => Err(failure),
            _ => Ok(()),
        })
    }

    /// The settings of each of these, in the same order.
    pub(in super::super) fn settings(&self, of: Resource, names: &[&str], timeout: Duration) -> Result<Vec<Settings>, Failure> {
        // SAFETY: the names are valid and copied; each is freed once.
        let resources = names.iter().map(|name| unsafe { sys::rd_kafka_ConfigResource_new(of.raw(), c_string(name).as_ptr()) });
        let mut resources = Owned(resources.collect(), sys::rd_kafka_ConfigResource_destroy);
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
        // SAFETY: the client and the resources are valid.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_DescribeConfigs(self.raw(), resources.0.as_mut_ptr(), resources.0.len(), options, queue);
        })?;
        let mut found = Vec::new();
        // SAFETY: the answer is one to this request, and its parts live as long as it does.
        unsafe {
            let mut count = 0;
            let result = sys::rd_kafka_event_DescribeConfigs_result(answer.raw());
            for &resource in slice(sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count), count) {
                code(sys::rd_kafka_ConfigResource_error(resource))?;
                let mut entries = 0;
                let entries = slice(sys::rd_kafka_ConfigResource_configs(resource, &raw mut entries), entries);
                let entry = |&entry| (text(sys::rd_kafka_ConfigEntry_name(entry)), text(sys::rd_kafka_ConfigEntry_value(entry)));
                found.push((text(sys::rd_kafka_ConfigResource_name(resource)), entries.iter().map(entry).collect::<Settings>()));
            }
        }
        let settings = |name: &&str| found.iter().find(|(of, _)| of == name).map(|(_, settings)| settings.clone());
        names.iter().map(settings).collect::<Option<_>>().ok_or_else(|| Code::UnknownTopicOrPartition.into())
    }

    /// Sets these settings and leaves the others.
    pub(in super::super) fn set(&self, of: Resource, name: &str, settings: &Settings, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: names and values are valid and copied; the resource is freed once.
        let mut resource = unsafe {
            let resource = sys::rd_kafka_ConfigResource_new(of.raw(), c_string(name).as_ptr());
            let owned = Owned(vec![resource], sys::rd_kafka_ConfigResource_destroy);
            for (name, value) in settings {
                let set = sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
                let (name, value) = (c_string(name), c_string(value));
                checked(sys::rd_kafka_ConfigResource_add_incremental_config(resource, name.as_ptr(), set, value.as_ptr()))?;
            }
            owned
        };
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS;
        // SAFETY: the client and the resource are valid.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_IncrementalAlterConfigs(self.raw(), resource.0.as_mut_ptr(), 1, options, queue);
        })?;
        let mut count = 0;
        // SAFETY: the answer is one to this request, and its parts live as long as it does.
        unsafe {
            let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(answer.raw());
            let resources = slice(sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count), count);
            resources.iter().try_for_each(|&one| {
                let failed = code(sys::rd_kafka_ConfigResource_error(one));
                failed.map_err(|e| Failure { text: text(sys::rd_kafka_ConfigResource_error_string(one)), ..e })
            })
        }
    }

    /// The start of each of these partitions, or its end, in this order; by one request for each broker that leads some.
    pub(in super::super) fn ends_of(
        &self,
        places: &[(Arc<str>, i32)],
        end: Option<Isolation>,
        timeout: Duration,
    ) -> Result<Vec<Offset>, Failure> {
        let spec = match end {
            None => sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST,
            Some(_) => sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST,
        };
        let found = self.list_offsets(places, i64::from(spec as i32), end.unwrap_or(Isolation::Uncommitted), timeout)?;
        found.into_iter().map(|end| u64::try_from(end).map(Offset).map_err(|_| unanswered())).collect()
    }

    /// The offset of the first record of each of these partitions whose timestamp, in milliseconds, is `at` or later; negative if there is none.
    pub(in super::super) fn offsets_at(
        &self,
        places: &[(Arc<str>, i32)],
        at: i64,
        timeout: Duration,
    ) -> Result<Vec<i64>, Failure> {
        self.list_offsets(places, at, Isolation::Committed, timeout)
    }

    /// `spec` is a time, or one of librdkafka's negative numbers for a start or an end.
    fn list_offsets(
        &self,
        places: &[(Arc<str>, i32)],
        spec: i64,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Vec<i64>, Failure> {
        let level = match isolation {
            Isolation::Committed => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
            Isolation::Uncommitted => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        };
        let asked: Vec<_> = places.iter().map(|(topic, p)| (Arc::clone(topic), *p, spec)).collect();
        let list = partitions(&asked);
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        // SAFETY: the options are valid.
        let isolation = |options| unsafe { sys::rd_kafka_AdminOptions_set_isolation_level(options, level) };
        // SAFETY: the client and the list are valid.
        let answer = self.ask_with(op, timeout, isolation, &mut |options, queue| unsafe {
            sys::rd_kafka_ListOffsets(self.raw(), list.ptr(), options, queue);
        })?;
        // SAFETY: the answer is one to this request, and its parts live as long as it does.
        unsafe {
            let mut count = 0;
            let result = sys::rd_kafka_event_ListOffsets_result(answer.raw());
            let infos = slice(sys::rd_kafka_ListOffsets_result_infos(result, &raw mut count), count);
            let mut found = FxHashMap::default();
            for info in infos {
                let one = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*info);
                code(one.err)?;
                // What librdkafka 2.12 has, without an error, where a leader did not answer (`rd_kafka_ListOffsets_response_merge`).
                if one.offset == i64::from(sys::RD_KAFKA_OFFSET_INVALID) {
                    return Err(unanswered());
                }
                found.insert((CStr::from_ptr(one.topic).to_string_lossy(), one.partition), one.offset);
            }
            let offset = |(topic, p): &(Arc<str>, i32)| found.get(&(Cow::Borrowed(&**topic), *p)).copied();
            places.iter().map(|place| offset(place).ok_or_else(|| Code::UnknownPartition.into())).collect()
        }
    }

    /// Drops the records of a partition in front of an offset.
    pub(in super::super) fn delete_records(
        &self,
        topic: &Arc<str>,
        partition: i32,
        before: i64,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let list = partitions(&[(Arc::clone(topic), partition, before)]);
        // SAFETY: the list is valid and copied; the request is freed once.
        let request = unsafe { sys::rd_kafka_DeleteRecords_new(list.ptr()) };
        let mut request = Owned(vec![request], sys::rd_kafka_DeleteRecords_destroy);
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETERECORDS;
        // SAFETY: the client and the request are valid.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_DeleteRecords(self.raw(), request.0.as_mut_ptr(), 1, options, queue);
        })?;
        // SAFETY: the answer is one to this request.
        let offsets =
            unsafe { listed(sys::rd_kafka_DeleteRecords_result_offsets(sys::rd_kafka_event_DeleteRecords_result(answer.raw()))) };
        offsets.iter().map(|one| one.3).find(|code| *code != Code::NoError).map_or(Ok(()), |code| Err(code.into()))
    }

    /// The members of a group, as client and host. [`Code::GroupIdNotFound`] or none if there is no such group.
    pub(in super::super) fn group_members(&self, group: &str, timeout: Duration) -> Result<Vec<String>, Failure> {
        let mut members = Vec::new();
        self.describe_group(group, timeout, |id, member| {
            // SAFETY: the member is valid while it is looked at.
            let host = text(unsafe { sys::rd_kafka_MemberDescription_host(member) });
            members.push(format!("{id} at {}", host.trim_start_matches('/')));
        })?;
        Ok(members)
    }

    /// The partitions that the group wants this member of it to have, whatever the member has by now. Nothing where members share out
    /// partitions themselves, or where this is none.
    pub(in super::super) fn target(&self, group: &str, timeout: Duration) -> Result<Option<Vec<(String, i32)>>, Failure> {
        let own = self.member_id();
        let mut target = None;
        self.describe_group(group, timeout, |id, member| {
            if Some(id) != own.as_deref() {
                return;
            }
            // SAFETY: the member is valid while it is looked at, and so are its parts; a target is null where there are none.
            unsafe {
                let assignment = sys::rd_kafka_MemberDescription_target_assignment(member);
                if !assignment.is_null() {
                    let partitions = listed(sys::rd_kafka_MemberAssignment_partitions(assignment));
                    target = Some(partitions.into_iter().map(|(topic, partition, ..)| (topic, partition)).collect());
                }
            }
        })?;
        Ok(target)
    }

    /// Shows each member of a group with its name.
    fn describe_group(
        &self,
        group: &str,
        timeout: Duration,
        mut show: impl FnMut(&str, *const sys::rd_kafka_MemberDescription_t),
    ) -> Result<(), Failure> {
        let name = c_string(group);
        let mut names = [name.as_ptr()];
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        // SAFETY: the client and the name are valid, and the name is copied.
        let answer = self.ask(op, timeout, &mut |options, queue| unsafe {
            sys::rd_kafka_DescribeConsumerGroups(self.raw(), names.as_mut_ptr(), names.len(), options, queue);
        })?;
        // SAFETY: the answer is one to this request, and its parts live as long as it does.
        unsafe {
            let mut count = 0;
            let result = sys::rd_kafka_event_DescribeConsumerGroups_result(answer.raw());
            for &group in slice(sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count), count) {
                if let Some(failure) = described(sys::rd_kafka_ConsumerGroupDescription_error(group)) {
                    return Err(failure);
                }
                for at in 0..sys::rd_kafka_ConsumerGroupDescription_member_count(group) {
                    let member = sys::rd_kafka_ConsumerGroupDescription_member(group, at);
                    show(&text(sys::rd_kafka_MemberDescription_consumer_id(member)), member);
                }
            }
        }
        Ok(())
    }

    /// The offsets of a group for these partitions, or all there are. Of stable ones, [`Code::UnstableOffsetCommit`] while a transaction that is
    /// decided is not marked yet; of all there are, one that is the first for its partition may be missing until then.
    pub(in super::super) fn group_offsets(
        &self,
        group: &str,
        of: Option<&[(Arc<str>, i32, i64)]>,
        which: Offsets,
        timeout: Duration,
    ) -> Result<Vec<(String, i32, i64)>, Failure> {
        let list = of.map(partitions);
        let list = list.as_ref().map_or(std::ptr::null(), |list| list.ptr().cast_const());
        // SAFETY: name and list are valid and copied, no list means all partitions, and the request is freed once.
        let request = unsafe { sys::rd_kafka_ListConsumerGroupOffsets_new(c_string(group).as_ptr(), list) };
        let mut request = Owned(vec![request], sys::rd_kafka_ListConsumerGroupOffsets_destroy);
        let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        let stable = i32::from(which == Offsets::Stable);
        // SAFETY: the options are valid.
        let stable = |options| unsafe { sys::rd_kafka_AdminOptions_set_require_stable_offsets(options, stable) };
        // SAFETY: the client and the request are valid.
        let answer = self.ask_with(op, timeout, stable, &mut |options, queue| unsafe {
            sys::rd_kafka_ListConsumerGroupOffsets(self.raw(), request.0.as_mut_ptr(), 1, options, queue);
        })?;
        // SAFETY: the answer is one to this request, and its parts live as long as it does.
        let offsets = unsafe {
            let mut count = 0;
            let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(answer.raw());
            let groups = slice(sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count), count);
            let Some(&group) = groups.first() else { return Ok(Vec::new()) };
            if let Some(failure) = described(sys::rd_kafka_group_result_error(group)) {
                return Err(failure);
            }
            listed(sys::rd_kafka_group_result_partitions(group))
        };
        let offset = |(topic, partition, offset, error)| match error {
            Code::NoError => Ok((topic, partition, offset)),
            error => Err(Failure::from(error)),
        };
        offsets.into_iter().map(offset).filter(|one| one.as_ref().map_or(true, |(.., offset)| *offset >= 0)).collect()
    }
}

impl Resource {
    fn raw(self) -> sys::rd_kafka_ResourceType_t {
        match self {
            Resource::Topic => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            Resource::Group => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
            Resource::Broker => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_BROKER,
        }
    }
}

fn topic_result(result: *const sys::rd_kafka_topic_result_t) -> Result<(), Failure> {
    // SAFETY: the result is part of an answer that the caller holds.
    let (found, reason) =
        unsafe { (sys::rd_kafka_topic_result_error(result), text(sys::rd_kafka_topic_result_error_string(result))) };
    code(found).map_err(|failure| Failure { text: reason, ..failure })
}
