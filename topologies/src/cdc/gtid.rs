//! Global transaction ids: what of the binlog has been read, in words that outlive a binlog file and hold on any server of a cluster.
//! MariaDB counts by domain and keeps the last number of each; MySQL keeps the set of all that were executed. Nothing here does I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use mysql_async::Sid;
use uuid::Uuid;

/// The transactions that have been read, by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gtids {
    /// MariaDB: the last one of each domain.
    MariaDb(BTreeMap<u32, (u32, u64)>),
    /// MySQL: intervals of numbers, both ends included, by the server that gave them and its tag.
    MySql(BTreeMap<(Uuid, String), Vec<(u64, u64)>>),
}

/// One transaction's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gtid {
    /// Of MariaDB.
    MariaDb {
        /// The domain.
        domain: u32,
        /// The server that committed it first.
        server: u32,
        /// Its number in the domain.
        sequence: u64,
    },
    /// Of MySQL.
    MySql {
        /// The server that committed it first, and the tag (MySQL 8.4), which is mostly empty.
        source: (Uuid, String),
        /// Its number there.
        number: u64,
    },
}

/// The text is no list of ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a list of transaction ids")]
pub struct UnreadableGtids(String);

impl Gtids {
    /// Reads what MariaDB gives, such as `0-1-100,1-2-5`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn mariadb(text: &str) -> Result<Gtids, UnreadableGtids> {
        let read = |part: &str| {
            let mut numbers = part.trim().split('-');
            let (domain, server, sequence) = (numbers.next()?, numbers.next()?, numbers.next()?);
            numbers.next().is_none().then_some(())?;
            Some((domain.parse().ok()?, (server.parse().ok()?, sequence.parse().ok()?)))
        };
        let parts = text.split(',').filter(|part| !part.trim().is_empty());
        let read: Option<_> = parts.map(read).collect();
        read.map(Gtids::MariaDb).ok_or_else(|| UnreadableGtids(text.to_owned()))
    }

    /// Reads what MySQL gives, such as `3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn mysql(text: &str) -> Result<Gtids, UnreadableGtids> {
        let mut sets: BTreeMap<(Uuid, String), Vec<(u64, u64)>> = BTreeMap::new();
        let mut read = |part: &str| {
            let mut words = part.split(':').map(str::trim);
            let server: Uuid = words.next()?.parse().ok()?;
            let mut tag = String::new();
            for word in words {
                let is_tag = |word: &str| word.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
                if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && is_tag(word) {
                    word.clone_into(&mut tag);
                    continue;
                }
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                let interval = (first.parse().ok()?, last.parse().ok()?);
                sets.entry((server, tag.clone())).or_default().push(interval);
            }
            Some(())
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let all: Option<()> = parts.map(&mut read).collect();
        all.ok_or_else(|| UnreadableGtids(text.to_owned()))?;
        sets.values_mut().for_each(|intervals| intervals.sort_unstable());
        Ok(Gtids::MySql(sets))
    }

    /// Adds a transaction. One of another kind of server is ignored: the position's file and offset then say where it is.
    pub fn add(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (Gtids::MariaDb(last), Gtid::MariaDb { domain, server, sequence }) => {
                last.insert(*domain, (*server, *sequence));
            }
            (Gtids::MySql(sets), Gtid::MySql { source, number }) => {
                let intervals = sets.entry(source.clone()).or_default();
                // They come in order, so nearly always this lengthens the last interval by one.
                match intervals.last_mut() {
                    Some((_, last)) if *last + 1 == *number => *last = *number,
                    _ => insert(intervals, *number),
                }
            }
            (Gtids::MariaDb(_), Gtid::MySql { .. }) | (Gtids::MySql(_), Gtid::MariaDb { .. }) => {}
        }
    }

    /// Whether all of these transactions have been read.
    #[must_use]
    pub fn covers(&self, others: &Gtids) -> bool {
        match (self, others) {
            (Gtids::MariaDb(last), Gtids::MariaDb(others)) => {
                others.iter().all(|(domain, (_, sequence))| last.get(domain).is_some_and(|(_, read)| read >= sequence))
            }
            (Gtids::MySql(sets), Gtids::MySql(others)) => others.iter().all(|(source, wanted)| {
                let has = |(first, last): &(u64, u64)| sets[source].iter().any(|(from, to)| from <= first && last <= to);
                sets.contains_key(source) && wanted.iter().all(has)
            }),
            (Gtids::MariaDb(_), Gtids::MySql(_)) | (Gtids::MySql(_), Gtids::MariaDb(_)) => others.is_empty(),
        }
    }

    /// The last transaction of a MySQL server, alone.
    #[must_use]
    pub fn last_of(&self, server: &str) -> Option<Gtids> {
        let Gtids::MySql(sets) = self else { return None };
        let source = (server.parse().ok()?, String::new());
        let (_, last) = *sets.get(&source)?.last()?;
        Some(Gtids::MySql(BTreeMap::from([(source, vec![(last, last)])])))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Gtids::MariaDb(last) => last.is_empty(),
            Gtids::MySql(sets) => sets.is_empty(),
        }
    }

    /// As MySQL's dump command carries them.
    #[must_use]
    pub fn to_sids(&self) -> Vec<Sid<'static>> {
        match self {
            Gtids::MariaDb(_) => Vec::new(),
            // What is written here is what the client library reads.
            Gtids::MySql(_) => self.to_string().split(',').filter_map(|sid| sid.parse().ok()).collect(),
        }
    }
}

fn insert(intervals: &mut Vec<(u64, u64)>, number: u64) {
    if intervals.iter().any(|(first, last)| (*first..=*last).contains(&number)) {
        return;
    }
    intervals.push((number, number));
    intervals.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(intervals.len());
    for (first, last) in intervals.drain(..) {
        match joined.last_mut() {
            Some((_, end)) if *end + 1 >= first => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    *intervals = joined;
}

impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        match self {
            Gtids::MariaDb(last) => {
                for (domain, (server, sequence)) in last {
                    write!(f, "{comma}{domain}-{server}-{sequence}")?;
                    comma = ",";
                }
            }
            Gtids::MySql(sets) => {
                for ((server, tag), intervals) in sets {
                    write!(f, "{comma}{server}")?;
                    if !tag.is_empty() {
                        write!(f, ":{tag}")?;
                    }
                    for (first, last) in intervals {
                        if first == last { write!(f, ":{first}")? } else { write!(f, ":{first}-{last}")? }
                    }
                    comma = ",";
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Gtids {
    type Err = UnreadableGtids;

    /// Reads either kind: MySQL's have colons.
    fn from_str(text: &str) -> Result<Gtids, UnreadableGtids> {
        if text.contains(':') { Gtids::mysql(text) } else { Gtids::mariadb(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn both_kinds_are_read_and_written() {
        let tagged = format!("{SERVER}:1-3,{SERVER}:blue:7");
        for (text, written) in [
            ("0-1-100", Some("0-1-100")),
            ("1-2-5, 0-1-100", Some("0-1-100,1-2-5")),
            (&format!("{SERVER}:1-5:7"), Some(&*format!("{SERVER}:1-5:7"))),
            (&tagged, Some(&*tagged)),
            ("0-1", None),
            ("0-1-2-3", None),
            ("x:1", None),
            (&format!("{SERVER}:x-y"), None),
        ] {
            let read = text.parse::<Gtids>().ok().map(|gtids| gtids.to_string());
            assert_eq!(read.as_deref(), written, "{text}");
        }
        assert!(Gtids::mariadb("").expect("none").is_empty());
        assert!(Gtids::mysql("").expect("none").is_empty());
    }

    #[test]
    fn what_was_read_is_covered() {
        let check = |read: &str, others: &str, covers: bool| {
            let [read_ids, other_ids] = [read, others].map(|text| text.parse::<Gtids>().expect("ids"));
            assert_eq!(read_ids.covers(&other_ids), covers, "{read} {others}");
        };
        check("0-1-7", "0-1-7", true);
        check("0-2-7", "0-1-6", true);
        check("0-1-7", "0-1-8", false);
        check("0-1-7", "0-1-7,1-1-1", false);
        check("0-1-7", "", true);
        let of = |intervals: &str| format!("{SERVER}:{intervals}");
        check(&of("1-5:7-9"), &of("8"), true);
        check(&of("1-5:7-9"), &of("2-4:9"), true);
        check(&of("1-5:7-9"), &of("6"), false);
        check(&of("1-5:7-9"), &of("4-7"), false);
        check("0-1-7", &of("1"), false);
        let last = of("1-5:7-9").parse::<Gtids>().expect("ids").last_of(SERVER);
        assert_eq!(last.map(|ids| ids.to_string()), Some(of("9")));
    }

    #[test]
    fn what_is_read_is_added() {
        let mut mariadb: Gtids = "0-1-100".parse().expect("ids");
        mariadb.add(&Gtid::MariaDb { domain: 0, server: 2, sequence: 101 });
        mariadb.add(&Gtid::MariaDb { domain: 1, server: 2, sequence: 1 });
        assert_eq!(mariadb.to_string(), "0-2-101,1-2-1");

        let mut mysql = Gtids::mysql(&format!("{SERVER}:1-5")).expect("ids");
        let server: Uuid = SERVER.parse().expect("a UUID");
        for number in [6, 9, 8, 3, 7] {
            mysql.add(&Gtid::MySql { source: (server, String::new()), number });
        }
        assert_eq!(mysql.to_string(), format!("{SERVER}:1-9"));
        mysql.add(&Gtid::MySql { source: (server, String::new()), number: 12 });
        assert_eq!(mysql.to_string(), format!("{SERVER}:1-9:12"));
        assert_eq!(mysql.to_sids().len(), 1);
    }
}
