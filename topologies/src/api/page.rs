//! Lists in pages, newest first: `?limit=` and `?before=`, which is the `next` of the answer before.

use std::ops::Bound;

use millstream::codec::{self, Data};
use millstream::serve::{ApiError, Request};
use millstream::{Direction, Range, Seen, TypedView};

const LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 200;

/// What of a list is asked for.
pub struct Page<P> {
    limit: usize,
    before: Option<P>,
}

impl<P> Page<P> {
    /// What the query asks for. `place` reads what an answer's `next` was written as.
    pub fn asked(request: &Request, place: impl FnOnce(&str) -> Option<P>) -> Result<Page<P>, ApiError> {
        let limit = request.query_number("limit", LIMIT, 1..=MAX_LIMIT)? as usize;
        let before = request
            .query("before")?
            .map(|text| place(&text).ok_or_else(|| ApiError::invalid_field("before", "is not the `next` of an answer")));
        Ok(Page { limit, before: before.transpose()? })
    }
}

impl Page<(i64, u64)> {
    /// Reads a place in a list by age.
    pub fn place_by_age(text: &str) -> Option<(i64, u64)> {
        let (created, id) = text.split_once('-')?;
        Some((created.parse().ok()?, id.parse().ok()?))
    }

    /// Writes it.
    pub fn show_place((created, id): (i64, u64)) -> String {
        format!("{created}-{id}")
    }
}

/// The rows of a page, and the place of the next page, if there is one.
type Shown<A, B, V> = (Vec<V>, Option<(A, B)>);

impl<A: Data, B: Data> Page<(A, B)> {
    /// The rows of this page from the last key on, and the place of the next page, if there is one. `of` leaves only keys that begin so.
    pub fn read<V: Data>(&self, view: &TypedView<(A, B), V>, of: Option<&A>) -> Result<Seen<Shown<A, B, V>>, ApiError> {
        let first = of.map(codec::prefix).transpose().map_err(ApiError::internal)?.unwrap_or_default();
        let range = match &self.before {
            None => Range::prefix(&first),
            Some(place) => {
                let mut end = Vec::new();
                <(A, B)>::CODEC.encode(place, &mut end).map_err(ApiError::internal)?;
                Range::new(Bound::Included(&first), Bound::Excluded(&end))
            }
        };
        let rows = view.page(&range, Direction::Reverse, self.limit + 1)?;
        Ok(rows.map(|mut rows| {
            let more = rows.len() > self.limit;
            rows.truncate(self.limit);
            let next = rows.last().filter(|_| more).map(|(place, _)| place.clone());
            (rows.into_iter().map(|(_, value)| value).collect(), next)
        }))
    }
}
