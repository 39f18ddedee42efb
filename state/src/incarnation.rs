//! Which life of the program a directory is of. Where what the state was made from has been thrown away, as by a reset, the directory is of
//! no use any more, and nothing in it can tell: so the program names its life, and a directory of another one is emptied before it is opened.
//! It happens under the directory's lock, and what names the life is written last: emptying that was cut off is done again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The file that names the life. A directory without it is of the first, which has no name.
const FILE: &str = "incarnation";

/// Empties a directory that is of another life than `wanted`. Whether there was anything.
pub(crate) fn keep_to(directory: &Path, wanted: &str, lock: &str) -> io::Result<bool> {
    let file = directory.join(FILE);
    let found = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        // What is not text is no life's name.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => "\0".to_owned(),
        found => found?,
    };
    if found == wanted {
        return Ok(false);
    }
    let mut emptied = false;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == lock || entry.file_name() == FILE {
            continue;
        }
        emptied = true;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    // Gone for good before the name says so.
    File::open(directory)?.sync_all()?;
    let named = directory.join("incarnation.new");
    let mut new = File::create(&named)?;
    new.write_all(wanted.as_bytes())?;
    new.sync_all()?;
    fs::rename(&named, &file)?;
    File::open(directory)?.sync_all()?;
    Ok(emptied)
}
