//! Where records leave for a topic: typed records become bytes, at the partition that the key's bytes hash to.

use super::Node;
use crate::codec::Codec;
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::{Context, encode};
use crate::topology::{NodeId, TopicIndex};

/// What can be written to a topic of values `T`: a `T`, or an `Option<T>` whose `None` is Kafka's null, a deletion in a table.
pub trait SinkValue<T>: Clone + Send + Sync + 'static {
    /// The value, unless it is null.
    fn as_value(&self) -> Option<&T>;
}

impl<T: Clone + Send + Sync + 'static> SinkValue<T> for T {
    fn as_value(&self) -> Option<&T> {
        Some(self)
    }
}

impl<T: Clone + Send + Sync + 'static> SinkValue<T> for Option<T> {
    fn as_value(&self) -> Option<&T> {
        self.as_ref()
    }
}

/// What becomes of a record without a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NullKeys {
    Keep,
    /// Before a step by key, which could do nothing with it.
    Drop,
}

pub(crate) struct Sink<K: 'static, T: 'static> {
    pub(crate) id: NodeId,
    pub(crate) topic: TopicIndex,
    pub(crate) key: &'static dyn Codec<K>,
    pub(crate) value: &'static dyn Codec<T>,
    pub(crate) null_keys: NullKeys,
}

impl<K: Send + Sync, T, V: SinkValue<T>> Node<K, V> for Sink<K, T> {
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        ctx.with_buffers(|ctx, key, value| {
            let has_key = encode(self.key, "key", &record.key, key)?;
            if !has_key && self.null_keys == NullKeys::Drop {
                ctx.drop_record();
                return Ok(());
            }
            let has_value = record.value.as_value().map_or(Ok(false), |v| encode(self.value, "value", v, value))?;
            let (key, value) = (has_key.then_some(&key[..]), has_value.then_some(&value[..]));
            ctx.emit(self.topic, key, value, record.timestamp, &record.headers)
        })
    }
}
