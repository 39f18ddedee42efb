//! How many partitions each topic of a topology has: external ones as they are, internal ones as follows from them; and whether what is
//! joined has equally many.

use super::{TopicDef, TopicIndex, TopicRole, Topology, TopologyError};

impl Topology {
    /// The number of partitions of every topic, by index. `existing` tells how many a topic has in the log, if it is there.
    ///
    /// # Errors
    /// If topics that are joined have different numbers of partitions.
    pub(crate) fn partitions(&self, existing: impl Fn(&TopicDef) -> Option<u32>) -> Result<Vec<u32>, TopologyError> {
        let mut counts = vec![0; self.topics.len()];
        for (i, topic) in self.topics.iter().enumerate() {
            counts[i] = existing(topic).unwrap_or_else(|| match &topic.role {
                TopicRole::External => topic.partitions,
                TopicRole::Repartition { like } => like.iter().map(|t| counts[t.0]).max().unwrap_or(1),
                TopicRole::DeadLetters { of } => counts[of.0],
                TopicRole::Changelog | TopicRole::Replay => 0,
            });
        }
        for sub in &self.subs {
            let read = sub.sources.iter().map(|source| self.sources[source.0].topic);
            let (replays, inputs): (Vec<_>, Vec<_>) = read.partition(|topic| self.topics[topic.0].role == TopicRole::Replay);
            let tasks = inputs.iter().map(|topic| counts[topic.0]).max().unwrap_or(0);
            for topic in replays.into_iter().chain([sub.changelog]) {
                if counts[topic.0] == 0 {
                    counts[topic.0] = tasks;
                }
            }
        }
        let mistakes: Vec<String> = self.copartitions.iter().filter_map(|joined| self.unequal(joined, &counts)).collect();
        if mistakes.is_empty() { Ok(counts) } else { Err(TopologyError(mistakes)) }
    }

    /// How many tasks a sub-topology has, given the partitions of all topics.
    pub(crate) fn tasks(&self, sub: usize, counts: &[u32]) -> u32 {
        self.subs[sub].sources.iter().map(|source| counts[self.sources[source.0].topic.0]).max().unwrap_or(0)
    }

    fn unequal(&self, joined: &super::CoPartition, counts: &[u32]) -> Option<String> {
        let all = joined.left.iter().chain(&joined.right);
        let first = all.clone().next()?;
        let other = all.clone().find(|topic| counts[topic.0] != counts[first.0])?;
        let show = |topic: &TopicIndex| format!("{:?} with {} partitions", self.topics[topic.0].name, counts[topic.0]);
        let node = &self.nodes[joined.node.0].name;
        Some(format!("{node:?} joins {} and {}; they must have equally many", show(first), show(other)))
    }
}
