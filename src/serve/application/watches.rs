//! `/views/…` as a stream: what is there now, then every committed change, each as an event `change {key, value, position}`, wherever the
//! tasks of the store are and go.
//!
//! `position` names the end of the store's changelog as `partition:offset`; what is there now has those of all partitions, by commas. A value
//! is never followed by an older one of the same key and partition. A change that was committed while a long prefix was read may come twice.
//!
//! Each process that has some of the tasks tells its part ([`parts`](super::parts)). A part that ends is begun anew, where its tasks are then,
//! from what has been told. So the value of a key may come twice; of a prefix all rows of the part do, after `reset {partitions}`, for
//! those that went meanwhile are not told.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::error::ApiError;
use super::super::events::{Event, Events};
use super::super::request::Request;
use super::super::response::Response;
use super::gather::{Coded, Forwarded, Views, asked_for, requests};
use super::parts::{self, Ended, News, Teller};
use crate::record::{Offset, Partition};
use crate::runtime::{Place, QueryError, TaskPlace, View, Watched};

/// How soon a process is asked again that should have tasks and did not tell of them, if it does not say so itself. Nothing else says that it
/// does now. Each time in a row it is twice as long, up to the longest.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(4);
/// A process is not left alone for longer than this, whatever it says.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Answers a watch, or another process's request for a part of one.
pub(super) async fn begin(views: Views, request: &Request, view: View, watched: Watched) -> Result<Response, ApiError> {
    let tasks = view.tasks_of();
    if let Some(asked) = asked_for(&views.application, request, &tasks)? {
        let partitions: Vec<Partition> = asked.iter().map(|(task, _)| Partition(task.1)).collect();
        request.at_least_in(&views.application, view.name(), &partitions).await?;
        if parts::readable_since(&views.application, &asked).is_none() {
            // Without a time: it may be here any moment, and who asks is soon back and then less often.
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_READY", "a task is not here"));
        }
        return Ok(Response::events(move |events| parts::pass(views.application, view, watched, asked, events)));
    }
    request.at_least(&views.application, view.name()).await?;
    let forwarded = Forwarded::of(request)?;
    Ok(Response::events(move |mut events| async move {
        let name = view.name().to_owned();
        let outcome = Following::new(views, view, watched, forwarded).run(&mut events).await;
        if let Err(error) = outcome {
            tracing::error!(store = name, %error, "a watch ends");
        }
    }))
}

/// A part that is told.
struct Part {
    place: Place,
    tasks: Vec<TaskPlace>,
    run: Pin<Box<dyn Future<Output = Result<Ended, QueryError>> + Send>>,
}

/// A watch of all tasks of a store.
struct Following {
    views: Views,
    forwarded: Forwarded,
    parts: Vec<Part>,
    /// The tasks that are in no part, and how many of their places were tried in vain; `None`, for all of them, until they are looked for again.
    loose: Vec<(TaskPlace, Option<usize>)>,
    refusals: Refusals,
    shown: Shown,
}

impl Following {
    fn new(views: Views, view: View, watched: Watched, forwarded: Forwarded) -> Following {
        let loose: Vec<_> = view.tasks_of().into_iter().map(|task| (task, Some(0))).collect();
        let shown = Shown::new(view, watched, loose.len());
        Following { views, forwarded, parts: Vec::new(), loose, refusals: Refusals::default(), shown }
    }

    /// Shows what there is and what comes, until the application stops.
    async fn run(mut self, events: &mut Events) -> Result<(), QueryError> {
        let (teller, mut news) = parts::channel();
        let mut moves = self.views.application.moves();
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.attach(&teller);
            // Those that nobody has move before somebody has them.
            let in_vain = self.loose.iter().any(|(task, _)| !self.views.application.places(*task).is_empty());
            let ended = tokio::select! {
                biased;
                Some(one) = news.recv() => {
                    self.shown.take(one, events).await?;
                    continue;
                }
                ended = first_to_end(&mut self.parts) => Some(ended),
                _ = moves.changed() => None,
                _ = again.tick(), if in_vain => None,
            };
            // What a part told goes before whatever another tells of the same tasks.
            while let Ok(one) = news.try_recv() {
                self.shown.take(one, events).await?;
            }
            match ended {
                Some((number, outcome)) => {
                    let part = self.parts.swap_remove(number);
                    let next = match outcome? {
                        Ended::Over => return Ok(()),
                        Ended::Anew => {
                            self.refusals.forget(&part.place);
                            None
                        }
                        Ended::Unreached(retry_after) => {
                            self.refusals.note(&part.place, retry_after, Instant::now());
                            self.tried(&part)
                        }
                    };
                    self.loose.extend(part.tasks.into_iter().map(|task| (task, next)));
                }
                None => self.leave_those_that_have_gone(),
            }
        }
    }

    /// Begins parts for the tasks that are in none: one for each process that has some, or several where they are many.
    fn attach(&mut self, teller: &Teller) {
        let (mut found, now) = (BTreeMap::<Place, Vec<TaskPlace>>::new(), Instant::now());
        self.loose.retain_mut(|(task, tried)| {
            let next = |tried| {
                let mut places = self.views.application.places(*task).into_iter().skip(tried);
                places.find(|place| !self.refusals.holds(place, now))
            };
            let place = tried.and_then(next);
            *tried = None;
            match place {
                Some(place) => {
                    found.entry(place).or_default().push(*task);
                    false
                }
                None => true,
            }
        });
        for (place, tasks) in found {
            let known: parts::Known = tasks.iter().map(|task| (*task, self.shown.known(task.1))).collect();
            let (view, watched) = (&self.shown.view, &self.shown.watched);
            let Place::There(endpoint) = &place else {
                let (application, view, watched) = (self.views.application.clone(), view.clone(), watched.clone());
                let run = Box::pin(parts::here(application, view, watched, known, teller.clone()));
                self.parts.push(Part { place, tasks, run });
                continue;
            };
            let name = |(task, position): &(TaskPlace, Offset)| format!("{}@{position}", self.views.application.task_name(*task));
            for (known, names) in requests(known, name) {
                let (peers, endpoint) = (Arc::clone(&self.views.peers), endpoint.clone());
                let (forwarded, teller) = (self.forwarded.clone(), teller.clone());
                let run = Box::pin(async move { Ok(parts::there(peers, endpoint, forwarded, names, teller).await) });
                let tasks = known.into_iter().map(|(task, _)| task).collect();
                self.parts.push(Part { place: place.clone(), tasks, run });
            }
        }
    }

    /// Which place comes after one that was tried in vain.
    fn tried(&self, part: &Part) -> Option<usize> {
        let places = self.views.application.places(*part.tasks.first()?);
        places.iter().position(|place| *place == part.place).map(|place| place + 1)
    }

    /// Leaves processes that do not have their tasks any more as far as is known here, even if they say nothing; and looks for all tasks
    /// that are in no part.
    fn leave_those_that_have_gone(&mut self) {
        let application = &self.views.application;
        let stays = |part: &mut Part| {
            part.place == Place::Here || part.tasks.iter().all(|task| application.places(*task).contains(&part.place))
        };
        let gone = self.parts.extract_if(.., |part| !stays(part));
        self.loose.extend(gone.flat_map(|part| part.tasks).map(|task| (task, None)));
        self.loose.iter_mut().for_each(|(_, tried)| *tried = Some(0));
    }
}

/// Runs all parts until one ends; answers which, and how.
async fn first_to_end(parts: &mut [Part]) -> (usize, Result<Ended, QueryError>) {
    poll_fn(|cx| {
        for (number, part) in parts.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = part.run.as_mut().poll(cx) {
                return Poll::Ready((number, outcome));
            }
        }
        Poll::Pending
    })
    .await
}

/// The processes that refused to tell when they were asked last, by where they are reached.
#[derive(Default)]
struct Refusals(BTreeMap<String, Refused>);

struct Refused {
    /// Until then it is not asked.
    until: Instant,
    /// How long it is left alone after the next time.
    next: Duration,
}

impl Refusals {
    fn note(&mut self, place: &Place, retry_after: Option<Duration>, now: Instant) {
        let Place::There(endpoint) = place else { return };
        let refused = self.0.entry(endpoint.clone()).or_insert(Refused { until: now, next: AGAIN });
        // Of several parts that it was asked for at once, one counts.
        if refused.until <= now {
            refused.until = now + retry_after.unwrap_or(refused.next).clamp(AGAIN, LEFT_ALONE);
            refused.next = (refused.next * 2).min(LONGEST);
        }
    }

    fn forget(&mut self, place: &Place) {
        if let Place::There(endpoint) = place {
            self.0.remove(endpoint);
        }
    }

    fn holds(&self, place: &Place, now: Instant) -> bool {
        matches!(place, Place::There(endpoint) if self.0.get(endpoint).is_some_and(|refused| now < refused.until))
    }
}

/// What a client has been shown.
struct Shown {
    view: View,
    watched: Watched,
    partitions: usize,
    /// Where each partition stood that was told of.
    positions: BTreeMap<u32, u64>,
    /// The position up to which all of a partition was shown.
    complete: BTreeMap<u32, u64>,
    /// Of a watched key, the partitions that have it, as far as the client knows,
    having: BTreeSet<u32>,
    /// and of these the ones that have not told it again since they began anew.
    doubtful: BTreeSet<u32>,
    /// Whether the client knows of the key.
    any: bool,
}

impl Shown {
    fn new(view: View, watched: Watched, partitions: usize) -> Shown {
        let (positions, complete) = (BTreeMap::new(), BTreeMap::new());
        let (having, doubtful) = (BTreeSet::new(), BTreeSet::new());
        Shown { view, watched, partitions, positions, complete, having, doubtful, any: false }
    }

    /// From where on a partition is to be told.
    fn known(&self, partition: u32) -> Offset {
        Offset(self.complete.get(&partition).copied().unwrap_or(0))
    }

    async fn take(&mut self, news: News, events: &mut Events) -> Result<(), QueryError> {
        match news {
            News::Begins(at) => {
                let again: Vec<u32> = at.iter().map(|(of, _)| *of).filter(|of| self.positions.contains_key(of)).collect();
                self.positions.extend(at);
                if matches!(self.watched, Watched::Key(_)) {
                    self.doubtful.extend(again.into_iter().filter(|of| self.having.contains(of)));
                } else if !again.is_empty() {
                    let data = json!({"partitions": again}).to_string();
                    events.send(&Event::new("reset", data.as_bytes())).await;
                }
            }
            News::Row { partition, key: Coded(key), value: Coded(value) } => {
                self.note(partition, true);
                let data = self.show(&key, Some(&value), &self.positions)?;
                events.send(&Event::new("change", &data)).await;
            }
            News::Changed { partition, position, key: Coded(key), value } => {
                self.note(partition, value.is_some());
                let at = BTreeMap::from([(partition, position)]);
                let data = self.show(&key, value.as_ref().map(|Coded(value)| &value[..]), &at)?;
                events.send(&Event::new("change", &data)).await;
                self.positions.extend(at.clone());
                self.complete.extend(at);
            }
            News::Current(at) => {
                self.complete.extend(at.iter().copied());
                let lost: BTreeMap<u32, u64> = at.into_iter().filter(|(of, _)| self.doubtful.remove(of)).collect();
                self.having.retain(|of| !lost.contains_key(of));
                let is_nowhere = !self.any && self.complete.len() == self.partitions;
                if let Watched::Key(key) = &self.watched
                    && (is_nowhere || !lost.is_empty())
                {
                    let data = self.show(key, None, if is_nowhere { &self.positions } else { &lost })?;
                    events.send(&Event::new("change", &data)).await;
                    self.any = true;
                }
            }
            News::Still => {}
        }
        Ok(())
    }

    /// A partition has told what it has of a watched key.
    fn note(&mut self, partition: u32, has: bool) {
        if matches!(self.watched, Watched::Key(_)) {
            self.any = true;
            self.doubtful.remove(&partition);
            if has {
                self.having.insert(partition)
            } else {
                self.having.remove(&partition)
            };
        }
    }

    /// `{"key":…,"value":…,"position":…}`
    fn show(&self, key: &[u8], value: Option<&[u8]>, positions: &BTreeMap<u32, u64>) -> Result<Vec<u8>, QueryError> {
        let unreadable = |error| QueryError::Codec { store: self.view.name().to_owned(), error };
        let mut out = br#"{"key":"#.to_vec();
        self.view.key_to_json(key, &mut out).map_err(unreadable)?;
        out.extend_from_slice(br#","value":"#);
        match value {
            Some(value) => self.view.value_to_json(value, &mut out).map_err(unreadable)?,
            None => out.extend_from_slice(b"null"),
        }
        let positions: Vec<String> = positions.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
        out.extend_from_slice(format!(r#","position":"{}"}}"#, positions.join(",")).as_bytes());
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_is_left_alone_for_as_long_as_it_says_or_longer_each_time() {
        let (mut refusals, place) = (Refusals::default(), Place::There("a:1".into()));
        let mut now = Instant::now();
        let mut left_alone_ms = |refusals: &mut Refusals, retry_after_s: Option<u64>| {
            // It was asked for several parts.
            for _ in 0..3 {
                refusals.note(&place, retry_after_s.map(Duration::from_secs), now);
            }
            let begun = now;
            while refusals.holds(&place, now) {
                now += Duration::from_millis(50);
            }
            (now - begun).as_millis()
        };
        let own = [(); 6].map(|()| left_alone_ms(&mut refusals, None));
        assert_eq!(own, [250, 500, 1_000, 2_000, 4_000, 4_000]);
        let said = [0, 7, 3_600].map(|seconds| left_alone_ms(&mut refusals, Some(seconds)));
        assert_eq!(said, [250, 7_000, 60_000]);
        refusals.forget(&Place::There("a:1".into()));
        assert_eq!(left_alone_ms(&mut refusals, None), 250);
        refusals.note(&Place::Here, None, now);
        assert!(!refusals.holds(&Place::Here, now));
    }
}
