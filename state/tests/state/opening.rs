//! Which directories are opened, and what is said of those that are not; and disks that refuse a flush.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use millstream_state::{Access, Db, Error, Home, Lock, OpenError, Options, StoreSpec};

use crate::support::{A, B, TASK, TestHome, all, commit, get, position, task};

fn stores() -> Vec<StoreSpec> {
    vec![StoreSpec::new("a", Access::Keyed), StoreSpec::new("b", Access::Ordered)]
}

fn options(directory: &Path, stores: Vec<StoreSpec>, fingerprint: &[(&str, &str)]) -> Options {
    let fingerprint = fingerprint.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Options { background: false, fingerprint, ..Options::new(Home::Directory(directory.to_owned()), stores) }
}

fn open(directory: &Path) -> Result<Db, OpenError> {
    Db::open(options(directory, stores(), &[]))
}

/// One sentence that names the directory.
fn check_sentence(error: &OpenError, directory: &Path, what: &str) {
    let sentence = error.to_string();
    assert!(sentence.starts_with(&format!("state directory {} ", directory.display())), "{sentence}");
    assert!(sentence.contains(what) && !sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
}

#[test]
fn a_directory_has_one_database() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let refusal = open(directory.path()).err().unwrap();
    assert!(matches!(refusal, OpenError::Locked(_)), "{refusal:?}");
    check_sentence(&refusal, directory.path(), "in use");
    drop(first);
    open(directory.path()).unwrap();

    let TestHome { home, .. } = TestHome::memory();
    let open = || Db::open(Options { background: false, ..Options::new(home.clone(), stores()) });
    let first = open().unwrap();
    assert!(matches!(open(), Err(OpenError::Locked(_))));
    drop(first);
    open().unwrap();
}

#[test]
fn a_directory_of_another_life_is_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let open = |incarnation: &str| {
        let incarnation = incarnation.to_owned();
        // Whatever the fingerprint: what is thrown away need not fit.
        let fingerprint = [("application", if incarnation.is_empty() { "old" } else { "new" })];
        Db::open(Options { incarnation, ..options(directory.path(), stores(), &fingerprint) }).unwrap()
    };
    let filled = |db: &Db| get(&task(db), A, "k").is_some();
    let fill = |db: Db| {
        let mut state = task(&db);
        state.put(A, b"k", b"v");
        commit(&mut state, 1);
        drop(state);
        db.close().unwrap();
    };
    for (incarnation, expected) in [("", false), ("", true), ("second", false), ("second", true), ("third", false)] {
        let db = open(incarnation);
        assert_eq!(filled(&db), expected, "{incarnation:?}");
        fill(db);
    }
    // As it is when emptying was cut off before the end: done again.
    fs::remove_file(directory.path().join("incarnation")).unwrap();
    assert!(!filled(&open("third")));
}

#[test]
fn a_lock_is_given_back_though_a_child_that_is_being_made_has_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Lock::take(fs::File::create(directory.path().join("lock")).unwrap());
    let lock = open().unwrap();
    let in_the_child = lock.try_clone().unwrap(); // as a fork has it
    assert!(matches!(open(), Err(fs::TryLockError::WouldBlock)));
    drop(lock);
    open().unwrap();
    drop(in_the_child);
}

#[test]
fn a_file_is_not_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refusal = open(&file).err().unwrap();
    assert!(matches!(refusal, OpenError::NotADirectory(_)), "{refusal:?}");
    check_sentence(&refusal, &file, "not a directory");
    let refusal = open(&file.join("below")).err().unwrap();
    assert!(matches!(refusal, OpenError::Io { .. }), "{refusal:?}");
}

#[test]
fn a_fingerprint_may_grow_and_not_change() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = <[StoreSpec; 2]>::try_from(stores()).unwrap();
    let c = || StoreSpec::new("c", Access::Keyed);
    let accepted = |stores: &[StoreSpec], fingerprint: &[(&str, &str)]| {
        drop(Db::open(options(directory.path(), stores.to_vec(), fingerprint)).unwrap())
    };
    let refused = |stores: &[StoreSpec], fingerprint: &[(&str, &str)], sentence: &str| {
        let refusal = Db::open(options(directory.path(), stores.to_vec(), fingerprint)).err().unwrap();
        assert!(matches!(refusal, OpenError::Incompatible { .. }), "{refusal:?}");
        check_sentence(&refusal, directory.path(), sentence);
    };
    accepted(std::slice::from_ref(&a), &[("sub-topology 0", "x")]);
    accepted(std::slice::from_ref(&a), &[("sub-topology 0", "x")]);
    accepted(&[b.clone(), a.clone()], &[("sub-topology 0", "x"), ("sub-topology 1", "y")]);
    refused(&[a.clone(), b.clone()], &[("sub-topology 0", "x"), ("sub-topology 1", "z")], "sub-topology 1 was y, and is now z");
    refused(&[a.clone(), b.clone()], &[("sub-topology 0", "x")], "sub-topology 1 was y, and is now missing");
    refused(&[a.clone(), c()], &[("sub-topology 0", "x"), ("sub-topology 1", "y")], "store b was plain, and is now missing");
    let mortal = a.clone().with_ttl_ms(1);
    refused(
        &[mortal, b.clone()],
        &[("sub-topology 0", "x"), ("sub-topology 1", "y")],
        "store a was plain, and is now with time-to-live",
    );
    let reaccessed = StoreSpec::new("a", Access::Ordered);
    accepted(&[reaccessed, b, c()], &[("sub-topology 0", "x"), ("sub-topology 1", "y")]);
}

#[test]
fn stores_are_found_by_name_when_their_order_changes() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(directory.path()).unwrap();
    let mut state = task(&db);
    state.put(A, b"k", b"of a");
    commit(&mut state, 1);
    drop(state);
    db.close().unwrap();
    let mut turned = stores();
    turned.reverse();
    turned.insert(1, StoreSpec::new("c", Access::Keyed));
    let db = Db::open(options(directory.path(), turned, &[])).unwrap();
    let a = db.store("a").unwrap();
    assert_eq!(db.store("z"), None);
    let state = db.task(TASK, &[a, db.store("b").unwrap()]).unwrap();
    assert_eq!(get(&state, a, "k").as_deref(), Some("of a"));
}

/// A directory with a flushed row.
fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let db = open(directory.path()).unwrap();
    let mut state = task(&db);
    state.put(A, b"k", &[7; 1000]);
    commit(&mut state, 1);
    drop(state);
    db.close().unwrap();
    directory
}

fn files(directory: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(directory.join("db")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

#[test]
fn a_damaged_directory_is_refused() {
    let check = |damage: &dyn Fn(&Path)| {
        let directory = filled();
        damage(directory.path());
        let refusal = open(directory.path()).err().unwrap();
        assert!(matches!(refusal, OpenError::Damaged { .. }), "{refusal:?}");
        check_sentence(&refusal, directory.path(), "damaged");
    };
    check(&|directory| fs::write(directory.join("db/CURRENT"), "nonsense").unwrap());
    check(&|directory| files(directory, "sst").into_iter().for_each(|file| fs::remove_file(file).unwrap()));
    check(&|directory| {
        let manifest = fs::read_to_string(directory.join("db/CURRENT")).unwrap();
        let manifest = directory.join("db").join(manifest.trim());
        let mut bytes = fs::read(&manifest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&manifest, bytes).unwrap();
    });
}

#[test]
fn damaged_rows_are_an_error_and_not_an_answer() {
    let directory = filled();
    for file in files(directory.path(), "sst") {
        let mut bytes = fs::read(&file).unwrap();
        bytes[..20].iter_mut().for_each(|byte| *byte ^= 0x55); // the first data block
        fs::write(&file, bytes).unwrap();
    }
    let outcome = open(directory.path()).map(|db| db.task(TASK, &[A, B]).map(|state| state.get(A, b"k").map(|v| v.is_some())));
    assert!(
        matches!(outcome, Err(OpenError::Damaged { .. }) | Ok(Err(Error::Damaged(_)) | Ok(Err(Error::Damaged(_))))),
        "{outcome:?}"
    );
}

#[test]
fn a_flush_that_fails_is_reported_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = heard.clone();
    let mut options = options(directory.path(), stores(), &[]);
    options.after_flush =
        Some(Arc::new(move |outcome| listener.lock().unwrap().push(outcome.map(|report| report.rows).map_err(Error::to_string))));
    let db = Db::open(options).unwrap();
    let mut state = task(&db);
    state.put(A, b"k", b"1");
    commit(&mut state, 1);

    let incoming = directory.path().join("incoming");
    fs::remove_dir_all(&incoming).unwrap();
    let error = db.flush().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    state.put(A, b"k", b"2");
    commit(&mut state, 2);
    db.flush().unwrap_err();
    assert_eq!((all(&state, A), state.position(A)), ("k=2".into(), Some(position(2))));
    assert!(db.memory().dirty > 0);

    fs::create_dir(&incoming).unwrap();
    assert_eq!(db.flush().unwrap().rows, 1);
    assert_eq!(db.memory().dirty, 0);
    assert_eq!(*heard.lock().unwrap(), [Err(error.to_string()), Err(error.to_string()), Ok(1)]);
    drop((state, db));
    let db = open(directory.path()).unwrap();
    let state = task(&db);
    assert_eq!((all(&state, A), state.position(A)), ("k=2".into(), Some(position(2))));
}
