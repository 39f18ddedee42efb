//! An application on a shared log as it looks from outside, for who runs none of it: its tasks, who has them, and how far behind they are.
//! By what its processes tell and its group has committed, both of a moment ago. Nothing here writes.

use std::collections::HashMap;

use super::presence;
use crate::log::{self, Log, TopicId, TopicInfo};
use crate::record::{Offset, Partition};
use crate::topology::{TopicRole, Topology};

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Its sub-topology.
    pub sub_topology: String,
    /// Its number.
    pub partition: Partition,
    /// Who said last that it has it: where that process is reached if it has an interface, else what it is called.
    pub owner: Option<String>,
    /// How many offsets of its inputs its group has not committed. Marks of transactions count, too.
    pub lag: u64,
}

impl Topology {
    /// The tasks of this topology in a log that processes share; those whose inputs do not exist yet are left out.
    ///
    /// # Errors
    /// If the log cannot be asked.
    pub fn tasks_in(&self, log: &dyn Log) -> Result<Vec<TaskStatus>, log::Error> {
        let existing: HashMap<String, TopicInfo> =
            log.topics()?.into_iter().map(|topic| (topic.name.to_string(), topic)).collect();
        let told = presence::told(log, &self.application)?;
        let offsets = log.offsets(&self.application)?;
        let read: HashMap<(TopicId, Partition), Offset> =
            offsets.into_iter().map(|(topic, p, offset)| ((topic, p), offset)).collect();
        let mut all = Vec::new();
        for (index, sub) in self.subs.iter().enumerate() {
            let inputs = self.inputs(index).map(|topic| &self.topics[topic.0]).filter(|topic| topic.role != TopicRole::Replay);
            let inputs: Vec<&TopicInfo> = inputs.filter_map(|topic| existing.get(&topic.name)).collect();
            for partition in (0..inputs.iter().map(|topic| topic.partitions).max().unwrap_or(0)).map(Partition) {
                let own = inputs.iter().filter(|topic| partition.0 < topic.partitions);
                let places: Vec<(TopicId, Partition)> = own.map(|topic| (topic.id, partition)).collect();
                let mut lag = 0;
                for (place, end) in places.iter().zip(log.open_ends(&places)?) {
                    let from = match read.get(place) {
                        Some(offset) => *offset,
                        None => log.bounds(place.0, partition)?.start,
                    };
                    lag += end.0.saturating_sub(from.0);
                }
                let owner = told.iter().find(|(_, process)| process.has(&sub.name, partition));
                let owner = owner.map(|(instance, process)| process.endpoint.clone().unwrap_or_else(|| instance.clone()));
                all.push(TaskStatus { sub_topology: sub.name.clone(), partition, owner, lag });
            }
        }
        Ok(all)
    }
}
