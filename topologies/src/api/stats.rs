//! Statistics over HTTP: what happened in each stretch of time.

use std::ops::Bound;
use std::sync::Arc;

use millstream::codec::Data;
use millstream::serve::{ApiError, Request, Response, StatusCode};
use millstream::{Direction, MAX_PAGE, Range, Timestamp};
use serde::Serialize;

use super::Api;
use crate::statistics::{COUPON_STATISTICS, Figures, MINUTE_MS, ORDER_STATISTICS};
use crate::time::{Iso, minutes};

/// How many windows are shown if nobody says from when.
const SHOWN: i64 = 60;
/// How many are shown at most.
const MOST: i64 = 1_440;

#[derive(Serialize)]
struct Stats<'a> {
    window: &'a str,
    windows: Vec<Window>,
}

#[derive(Serialize)]
struct Window {
    start: Iso,
    end: Iso,
    #[serde(flatten)]
    figures: Figures,
}

/// `GET /api/stats`
pub async fn show(api: Arc<Api>, request: Request) -> Result<Response, ApiError> {
    let window = request.query("window")?.unwrap_or("1m".into());
    let size = minutes(&window)
        .ok_or_else(|| ApiError::invalid_field("window", "must be a number of minutes, hours or days, such as 1m"))?;
    let size = size * MINUTE_MS;
    let time = |name: &'static str| {
        let text = request.query(name)?;
        let read = |text: &str| {
            Iso::parse(text).ok_or_else(|| {
                ApiError::invalid_field(name, "must be a time such as 2026-01-31T12:00:00Z, or milliseconds since 1970")
            })
        };
        Ok::<_, ApiError>(text.as_deref().map(read).transpose()?.map(|Iso(at)| at.0))
    };
    let to = time("to")?.unwrap_or(api.app.now().0 + 1);
    // The window that `to` lies in, or ends, is the last.
    let to = to.max(0).saturating_add(size - 1) / size * size;
    let from = time("from")?.unwrap_or(to - SHOWN * size).max(0) / size * size;
    if (to - from) / size > MOST {
        return Err(ApiError::invalid_field("from", format!("must be at most {MOST} windows before to")));
    }
    let at_least = |store| request.at_least(&api.app, store);
    tokio::try_join!(at_least(ORDER_STATISTICS.name()), at_least(COUPON_STATISTICS.name()))?;
    let app = api.app.clone();
    let reading = tokio::task::spawn_blocking(move || api.windows(from, to, size)).await;
    let windows = reading.map_err(ApiError::internal)??;
    app.settled().await?;
    Response::json(StatusCode::OK, &Stats { window: &window, windows })
}

impl Api {
    /// The windows of a size between two starts, also those in which nothing happened; durable or not.
    fn windows(&self, from: i64, to: i64, size: i64) -> Result<Vec<Window>, ApiError> {
        let starts = (from..to).step_by(size as usize);
        let empty =
            |start| Window { start: Iso(Timestamp(start)), end: Iso(Timestamp(start + size)), figures: Figures::default() };
        let mut windows: Vec<Window> = starts.map(empty).collect();
        for view in [&self.order_statistics, &self.coupon_statistics] {
            let mut next = from;
            loop {
                let (first, end) = (key(next)?, key(to)?);
                let range = Range::new(Bound::Included(&first), Bound::Excluded(&end));
                let minutes = view.page(&range, Direction::Forward, MAX_PAGE)?.ahead();
                for (minute, figures) in &minutes {
                    windows[((minute - from) / size) as usize].figures += *figures;
                }
                match minutes.last() {
                    Some((last, _)) if minutes.len() >= MAX_PAGE => next = last + 1,
                    _ => break,
                }
            }
        }
        Ok(windows)
    }
}

/// The bytes of a store's key.
fn key(minute: i64) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    i64::CODEC.encode(&minute, &mut bytes).map_err(ApiError::internal)?;
    Ok(bytes)
}
