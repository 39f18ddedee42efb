//! Who is told when something is wrong, by a POST of JSON. An alert never holds up a delivery: what cannot be said soon is dropped and
//! counted. Dead letters are gathered, so that a flood of them is one alert every few seconds.

use std::sync::Arc;
use std::time::Duration;

use millstream::Handle;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::breaker::Circuit;
use super::endpoint::{Endpoint, Target, Verdict};
use super::status::Status;
use crate::time::Iso;

/// Alerts that wait to be sent.
const QUEUE: usize = 256;
/// How long the other side has.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Dead letters are told of at most this often.
const LETTERS_EVERY: Duration = Duration::from_secs(10);

/// What there is to tell.
#[derive(Clone, Debug)]
pub enum Alert {
    /// The circuit is in another state, and why.
    Circuit(Circuit, String),
    /// Events were parked: how many, and why the last.
    Parked(u64, String),
}

/// Where to put alerts.
#[derive(Clone, Debug)]
pub struct Alerts {
    queue: Option<mpsc::Sender<Alert>>,
    status: Arc<Status>,
}

impl Alerts {
    /// Alerts about deliveries to `about`; nobody is told where there is no target.
    ///
    /// # Errors
    /// If TLS cannot be used.
    pub fn start(to: Option<&Target>, about: &Target, app: &Handle, status: &Arc<Status>) -> Result<Alerts, String> {
        let status = Arc::clone(status);
        let Some(to) = to else { return Ok(Alerts { queue: None, status }) };
        let endpoint = Endpoint::new(to.clone(), TIMEOUT, 1)?;
        let (queue, alerts) = mpsc::channel(QUEUE);
        tokio::spawn(tell(Teller { endpoint, about: about.to_string(), app: app.clone(), status: Arc::clone(&status) }, alerts));
        Ok(Alerts { queue: Some(queue), status })
    }

    /// Tells, some time soon.
    pub fn raise(&self, alert: Alert) {
        if let Some(queue) = &self.queue
            && queue.try_send(alert).is_err()
        {
            self.status.alerted("dropped");
        }
    }
}

struct Teller {
    endpoint: Endpoint,
    about: String,
    app: Handle,
    status: Arc<Status>,
}

async fn tell(teller: Teller, mut alerts: mpsc::Receiver<Alert>) {
    let mut parked: Option<(u64, String)> = None;
    let mut letters_from = Instant::now();
    loop {
        let next = match &parked {
            Some(_) => timeout_at(letters_from, alerts.recv()).await.ok(),
            None => Some(alerts.recv().await),
        };
        match next {
            Some(Some(Alert::Circuit(circuit, why))) => {
                let text = match circuit {
                    Circuit::Open => format!("nothing is delivered to {}: {why}", teller.about),
                    Circuit::Closed => format!("{} is delivered to again", teller.about),
                    Circuit::HalfOpen => continue,
                };
                teller.send(&format!("circuit-{}", circuit.name()), &text, json!({"cause": why})).await;
            }
            Some(Some(Alert::Parked(events, why))) => {
                let before = parked.take().map_or(0, |(before, _)| before);
                parked = Some((before + events, why));
            }
            // It is time for the letters, or nothing more will come.
            over @ (None | Some(None)) => {
                if let Some((events, why)) = parked.take() {
                    let text = format!("{events} events could not be delivered to {}, the last: {why}", teller.about);
                    teller.send("dead-letters", &text, json!({"cause": why, "count": events})).await;
                    letters_from = Instant::now() + LETTERS_EVERY;
                }
                if over.is_some() {
                    return;
                }
            }
        }
    }
}

impl Teller {
    async fn send(&self, event: &str, text: &str, mut body: Value) {
        body["event"] = event.into();
        body["text"] = text.into(); // what chats show
        body["url"] = self.about.as_str().into();
        body["at"] = Iso(self.app.now()).to_string().into();
        match self.endpoint.post(None, body.to_string().into(), self.app.now()).await {
            Verdict::Delivered => self.status.alerted("sent"),
            Verdict::Refused(why) | Verdict::Failed { why, .. } => {
                self.status.alerted("failed");
                tracing::warn!("an alert could not be sent, {event}: {why}");
            }
        }
    }
}
