//! Codecs: between typed keys and values and their bytes, in topics, changelogs and stores.
//!
//! A type names its codec once, by [`Data`]; a topic may choose another for its key or value. Integers, strings, byte strings and tuples
//! encode so that the order of the bytes is the order of the values, which is what makes range scans of a store mean something.

mod bincode;
mod integer;
mod json;
mod list;
mod optional;
mod text;
mod tuple;
mod windowed;

pub use self::bincode::Bincode;
pub use self::json::Json;
pub use self::list::List;
pub(crate) use self::list::{has_second, push_item};
pub use self::optional::Optional;
pub use self::text::{Decimal, RawBytes, Utf8};
pub use self::tuple::prefix;
pub use self::windowed::WindowedKey;
pub(crate) use self::windowed::{WINDOW_BYTES, push_key, push_window, split_window, time_bytes, time_of};

/// Why bytes could not be read, or a value not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are null where the codec needs a value.
    #[error("is null, where {0} is needed")]
    Null(&'static str),
    /// The bytes are not what the codec writes.
    #[error("is not valid {expected}: {detail}")]
    Invalid {
        /// The codec's name.
        expected: &'static str,
        /// What is wrong.
        detail: String,
    },
}

impl Error {
    /// The bytes are not valid `expected`.
    pub fn invalid(expected: &'static str, detail: impl ToString) -> Error {
        Error::Invalid { expected, detail: detail.to_string() }
    }
}

/// Whether a value has bytes or is Kafka's null.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// The bytes are the value.
    Present,
    /// The value is null.
    Null,
}

/// What a codec can do without knowing the Rust type: show bytes to people, and read keys that people write.
pub trait Format: Send + Sync + 'static {
    /// The name and version of the format.
    fn name(&self) -> &'static str;
    /// What the fingerprint of a topology keeps: two formats that say the same here read each other's bytes. The name, unless there are
    /// parts with formats of their own.
    fn fingerprint(&self) -> String {
        self.name().to_owned()
    }
    /// Appends the value of `bytes` as JSON.
    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error>;
    /// Appends the bytes of the value that `text`, from a URL or a command line, stands for.
    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error>;
    /// Appends what the bytes of all keys begin with that `text` stands for the beginning of: where a key has parts, its first ones.
    fn parse_prefix(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        self.parse_text(text, out)
    }
    /// How many bytes every value has, where they are all equally long.
    fn fixed_width(&self) -> Option<usize> {
        None
    }
}

/// Encodes and decodes `T`. One value has one encoding, for keys are compared and partitioned by their bytes.
pub trait Codec<T>: Format {
    /// Appends the bytes of `value`, or answers that it is null.
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<Presence, Error>;
    /// The value of `bytes`; `None` is Kafka's null.
    fn decode(&self, bytes: Option<&[u8]>) -> Result<T, Error>;
}

/// A type that can flow and be stored: it names the codec that repartition topics and stores use for it.
///
/// ```
/// use millstream::codec::{Codec, Data, Json};
///
/// #[derive(Clone, serde::Serialize, serde::Deserialize)]
/// struct Order { id: u64, amount: u64 }
///
/// impl Data for Order {
///     const CODEC: &'static dyn Codec<Order> = &Json;
/// }
/// ```
pub trait Data: Clone + Send + Sync + 'static {
    /// The codec of this type.
    const CODEC: &'static dyn Codec<Self>;
}

pub(crate) fn present<'a>(bytes: Option<&'a [u8]>, codec: &'static str) -> Result<&'a [u8], Error> {
    bytes.ok_or(Error::Null(codec))
}

pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    serde_json::to_writer(out, value).map_err(|e| Error::invalid("json", e))
}
