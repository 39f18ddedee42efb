//! What can go wrong, as the caller has to tell it apart. Classified by codes and types, never by the text of a message.

use std::io;
use std::path::PathBuf;

use crate::options::TaskId;

/// A failure of an open database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused, for now or for good: full, not permitted, broken. Rows that were committed are still in memory. Worth a retry.
    #[error("state on disk could not be {doing}: {cause}")]
    Io {
        /// What was tried: "read", "written", …
        doing: &'static str,
        /// What the disk said.
        cause: Box<str>,
    },
    /// What was read is not what was written. Fatal: the directory has to be removed and rebuilt from the log, or restored.
    #[error("state on disk is damaged: {0}")]
    Damaged(Box<str>),
    /// The task has an owner in this process.
    #[error("task {0} is owned by another thread")]
    Taken(TaskId),
    /// No task of this name was ever opened in this process.
    #[error("task {0} is not here")]
    NotHere(TaskId),
}

impl Error {
    pub(crate) fn io(doing: &'static str, cause: &impl ToString) -> Error {
        Error::Io { doing, cause: cause.to_string().into() }
    }
}

/// Why a database could not be opened. Each says in one sentence which directory and what about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another database of this one, has it open.
    #[error("state directory {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// What is on disk cannot be read back.
    #[error("state directory {} is damaged: {detail}", .directory.display())]
    Damaged {
        /// The directory.
        directory: PathBuf,
        /// What RocksDB found.
        detail: Box<str>,
    },
    /// The directory belongs to another topology, or to another version of this one. Every entry of the fingerprint that the directory was
    /// last opened with must be there again with the same value; new entries, and so new stores, are welcome.
    #[error(
        "state directory {} was written by an incompatible topology: {entry} was {}, and is now {}",
        .directory.display(), .stored, .given.as_deref().unwrap_or("missing")
    )]
    Incompatible {
        /// The directory.
        directory: PathBuf,
        /// The entry that differs.
        entry: String,
        /// Its value in the directory.
        stored: String,
        /// Its value now, if it has one.
        given: Option<String>,
    },
    /// The path is something else than a directory.
    #[error("state directory {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The file system refused.
    #[error("state directory {} could not be opened: {cause}", .directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What it said.
        cause: io::Error,
    },
}
