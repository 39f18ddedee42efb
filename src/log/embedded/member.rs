//! A worker thread of the one process that has the log. There is no group to speak of: the process deals out its tasks itself, and nobody
//! takes them away. It reads what is written, durable or not: what it commits lies behind that.

use super::partition::Reader;
use super::queue::Told;
use super::shared::Shared;
use super::{Committed, EmbeddedLog, Error, Fetched, TopicId, Transaction};
use crate::log::{Change, Member};
use crate::{Offset, Partition};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct SoleMember {
    shared: Arc<Shared>,
    /// The log's version at the end of the last wait: what is newer ends the next one at once.
    seen: u64,
}

impl SoleMember {
    pub(super) fn new(shared: Arc<Shared>) -> SoleMember {
        SoleMember { shared, seen: 0 }
    }
}

impl Member for SoleMember {
    fn changes(&mut self) -> Result<Vec<Change>, Error> {
        Ok(Vec::new())
    }

    fn is_member(&self) -> bool {
        true
    }

    fn begin(&mut self, _: usize, _: Partition, _: &[(TopicId, Offset)]) -> Result<(), Error> {
        Ok(())
    }

    fn fetch(&mut self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        self.shared.fetch(Reader::Member, (topic, partition), from, max_bytes)
    }

    fn wait(&mut self, timeout: Duration) {
        self.seen = self.shared.written.wait(self.seen, timeout);
    }

    fn commit(&mut self, transaction: Transaction) -> Result<Committed, Error> {
        EmbeddedLog::queue(&self.shared, transaction, Told::Written).wait()
    }
}
