//! The lock that makes a directory that of one process. What its refusal means, whoever asked says.

use std::fs::{File, TryLockError};
use std::ops::Deref;

/// A file that is locked against everybody else until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks a file.
    ///
    /// # Errors
    ///
    /// As [`File::try_lock`]: [`TryLockError::WouldBlock`] if it is locked already, by this process or another.
    pub fn take(file: File) -> Result<Lock, TryLockError> {
        file.try_lock()?;
        Ok(Lock(file))
    }
}

impl Drop for Lock {
    /// Closing would not do: a child that this process is making meanwhile has the file too, until it runs its own program, and would hold the
    /// lock so long. It is given back for all who have the file.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Deref for Lock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}
