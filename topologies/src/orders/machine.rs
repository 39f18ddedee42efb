//! The order as a state machine, and the saga that it goes through. Everything is decided here and nothing is done: [`Order::apply`] says
//! what others are to be asked and told.
//!
//! ```text
//!  Reserving ──all reserved──▶ Unpaid ──payment──▶ Completing ──all done──▶ Confirmed ──▶ Shipped ──▶ Delivered
//!   │  └── reserved, and paid meanwhile ────────────▲  │                       │
//!   │ out of stock,                │ failure, cancel, │ too few points,        │ cancel
//!   │ failure, cancel, timeout     │ timeout          │ cancel                 │
//!   └──────────────────────────────┴──────────▶ Stopping ◀────────────────────┘
//!                                                  │ what runs has answered
//!                                                  ▼
//!                                               Undoing ──all undone──▶ Ended (CANCELLED or FAILED)
//! ```
//! What others do for an order are its **steps**. Each is asked for once and answers once; what it has done is undone by its opposite.
//! Nothing is undone while a step still runs, so a step and its opposite never overtake each other.

use millstream::Timestamp;

use super::domain::{Answer, Change, End, Order, OrderPayment, PaymentStatus, Progress, Stage, Status, Step, reason};
use super::events::OrderCreated;
use crate::time::Iso;

/// What happens to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A payment came.
    Paid {
        /// Which.
        payment_id: u64,
        /// How much.
        amount: u64,
    },
    /// A payment was tried, and failed.
    PaymentFailed {
        /// Which.
        payment_id: u64,
        /// How much it would have been.
        amount: u64,
    },
    /// Nobody has paid in time.
    TimedOut,
    /// Somebody wants it to be cancelled.
    Cancel {
        /// Why.
        reason: String,
    },
    /// The carrier has it.
    Ship,
    /// The user has it.
    Deliver,
    /// A step is over.
    Answered {
        /// Which.
        step: Step,
        /// How.
        answer: Answer,
    },
}

/// Why an event cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such order.
    NotFound,
    /// There is one already.
    Exists,
    /// Not after what happened before.
    IllegalTransition,
    /// It waits for no payment.
    NotPayable,
    /// It waits for another amount.
    AmountMismatch,
}

impl Refusal {
    /// The name that is written.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Refusal::NotFound => "ORDER_NOT_FOUND",
            Refusal::Exists => "ORDER_EXISTS",
            Refusal::IllegalTransition => "ILLEGAL_TRANSITION",
            Refusal::NotPayable => "ORDER_NOT_PAYABLE",
            Refusal::AmountMismatch => "AMOUNT_MISMATCH",
        }
    }
}

/// What follows from an event, for others to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the participant of this step.
    Ask(Step),
    /// The payment is applied: the user hears.
    Paid {
        /// Which.
        payment_id: u64,
        /// How much.
        amount: u64,
    },
    /// The order has another status: everybody hears.
    Turned(Status),
}

/// What an event comes to, by the stage alone.
enum Move {
    Pay { payment_id: u64, amount: u64 },
    Stop { end: End, reason: String },
    Ship { payment: u64 },
    Deliver { payment: u64 },
    Hear,
    Nothing,
}

impl Order {
    /// A new order, and what it needs first.
    #[must_use]
    pub fn new(terms: OrderCreated, at: Timestamp, pay_until: Timestamp) -> (Order, Vec<Effect>) {
        let mut order = Order {
            pay_until: Iso(pay_until),
            stage: Stage::Reserving { payment: None },
            steps: Vec::with_capacity(2 * terms.items.len() + 2),
            payments: Vec::new(),
            reason: None,
            history: vec![Change { status: Status::Pending, at: Iso(at) }],
            terms,
        };
        let mut effects = Vec::new();
        for product_id in order.products() {
            order.ask(Step::Reserve(product_id), &mut effects);
        }
        (order, effects)
    }

    /// The status that everybody sees.
    #[must_use]
    pub fn status(&self) -> Status {
        self.history.last().map_or(Status::Pending, |change| change.status)
    }

    /// The status that it had before that.
    #[must_use]
    pub fn status_before(&self) -> Option<Status> {
        self.history.iter().nth_back(1).map(|change| change.status)
    }

    /// Whether a payment is awaited.
    #[must_use]
    pub fn is_unpaid(&self) -> bool {
        matches!(self.stage, Stage::Reserving { payment: None } | Stage::Unpaid)
    }

    /// Whether the event may be applied now.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self, event: &Event) -> Result<(), Refusal> {
        self.decide(event).map(|_| ())
    }

    /// The state machine: every event at every stage.
    fn decide(&self, event: &Event) -> Result<Move, Refusal> {
        use Stage::{Completing, Confirmed, Delivered, Ended, Reserving, Shipped, Stopping, Undoing, Unpaid};
        match (&self.stage, event) {
            (Reserving { payment: None } | Unpaid, Event::Paid { amount, .. } | Event::PaymentFailed { amount, .. })
                if *amount != self.terms.amount_due() =>
            {
                Err(Refusal::AmountMismatch)
            }
            (Reserving { payment: None } | Unpaid, Event::Paid { payment_id, amount }) => {
                Ok(Move::Pay { payment_id: *payment_id, amount: *amount })
            }
            (Reserving { payment: None } | Unpaid, Event::PaymentFailed { .. }) => {
                Ok(Move::Stop { end: End::Failed, reason: reason::PAYMENT_FAILED.into() })
            }
            (
                Reserving { payment: Some(_) }
                | Completing { .. }
                | Confirmed { .. }
                | Shipped { .. }
                | Delivered { .. }
                | Stopping { .. }
                | Undoing { .. }
                | Ended { .. },
                Event::Paid { .. } | Event::PaymentFailed { .. },
            ) => Err(Refusal::NotPayable),

            (Reserving { payment: None } | Unpaid, Event::TimedOut) => {
                Ok(Move::Stop { end: End::Failed, reason: reason::PAYMENT_TIMEOUT.into() })
            }
            // The payment was first.
            (
                Reserving { payment: Some(_) }
                | Completing { .. }
                | Confirmed { .. }
                | Shipped { .. }
                | Delivered { .. }
                | Stopping { .. }
                | Undoing { .. }
                | Ended { .. },
                Event::TimedOut,
            ) => Ok(Move::Nothing),

            (Reserving { .. } | Unpaid | Completing { .. } | Confirmed { .. }, Event::Cancel { reason }) => {
                Ok(Move::Stop { end: End::Cancelled, reason: reason.clone() })
            }
            (Confirmed { payment }, Event::Ship) => Ok(Move::Ship { payment: *payment }),
            (Shipped { payment }, Event::Deliver) => Ok(Move::Deliver { payment: *payment }),
            (Shipped { .. } | Delivered { .. } | Stopping { .. } | Undoing { .. } | Ended { .. }, Event::Cancel { .. })
            | (
                Reserving { .. }
                | Unpaid
                | Completing { .. }
                | Shipped { .. }
                | Delivered { .. }
                | Stopping { .. }
                | Undoing { .. }
                | Ended { .. },
                Event::Ship,
            )
            | (
                Reserving { .. }
                | Unpaid
                | Completing { .. }
                | Confirmed { .. }
                | Delivered { .. }
                | Stopping { .. }
                | Undoing { .. }
                | Ended { .. },
                Event::Deliver,
            ) => Err(Refusal::IllegalTransition),

            (
                Reserving { .. }
                | Unpaid
                | Completing { .. }
                | Confirmed { .. }
                | Shipped { .. }
                | Delivered { .. }
                | Stopping { .. }
                | Undoing { .. }
                | Ended { .. },
                Event::Answered { .. },
            ) => Ok(Move::Hear),
        }
    }

    /// Applies an event, and says what follows. A payment that comes for the second time changes nothing.
    ///
    /// # Errors
    /// The refusal, and what follows even so: a payment that is refused is given back.
    pub fn apply(&mut self, event: Event, at: Timestamp) -> (Result<(), Refusal>, Vec<Effect>) {
        let mut effects = Vec::new();
        let payment = match &event {
            Event::Paid { payment_id, amount } => Some((*payment_id, *amount, PaymentStatus::Completed)),
            Event::PaymentFailed { payment_id, amount } => Some((*payment_id, *amount, PaymentStatus::Failed)),
            _ => None,
        };
        let decided = self.decide(&event);
        if let Some((payment_id, amount, status)) = payment {
            if self.payments.iter().any(|known| known.payment_id == payment_id) {
                return (Ok(()), effects);
            }
            let refusal = decided.as_ref().err();
            self.payments.push(OrderPayment { payment_id, amount, status, reason: refusal.map(|refusal| refusal.code().into()) });
            if refusal.is_some() && status == PaymentStatus::Completed {
                self.ask(Step::Refund(payment_id), &mut effects);
            }
        }
        let decided = decided.map(|to| match to {
            Move::Pay { payment_id, amount } => {
                effects.push(Effect::Paid { payment_id, amount });
                match self.stage {
                    Stage::Unpaid => self.complete(payment_id, &mut effects),
                    _ => self.stage = Stage::Reserving { payment: Some(payment_id) },
                }
            }
            Move::Stop { end, reason } => self.stop(end, reason),
            Move::Ship { payment } => self.turn(Stage::Shipped { payment }, Status::Shipped, at, &mut effects),
            Move::Deliver { payment } => self.turn(Stage::Delivered { payment }, Status::Delivered, at, &mut effects),
            Move::Hear => {
                if let Event::Answered { step, answer } = event {
                    self.hear(step, &answer);
                }
            }
            Move::Nothing => {}
        });
        self.advance(at, &mut effects);
        (decided, effects)
    }

    fn products(&self) -> Vec<u64> {
        self.terms.items.iter().map(|item| item.product_id).collect()
    }

    fn ask(&mut self, step: Step, effects: &mut Vec<Effect>) {
        self.steps.push((step, Progress::Running));
        effects.push(Effect::Ask(step));
    }

    fn turn(&mut self, stage: Stage, status: Status, at: Timestamp, effects: &mut Vec<Effect>) {
        self.stage = stage;
        // The answers of different partitions may tell of earlier times: history goes forward even so.
        let at = self.history.last().map_or(Iso(at), |last| last.at.max(Iso(at)));
        self.history.push(Change { status, at });
        effects.push(Effect::Turned(status));
    }

    /// From here on the order is only taken back.
    fn stop(&mut self, end: End, reason: String) {
        let payment = match self.stage {
            Stage::Reserving { payment } => payment,
            Stage::Completing { payment } | Stage::Confirmed { payment } => Some(payment),
            _ => None,
        };
        self.reason = Some(reason);
        self.stage = Stage::Stopping { end, payment };
    }

    /// It is paid and reserved: the rest at once.
    fn complete(&mut self, payment: u64, effects: &mut Vec<Effect>) {
        self.stage = Stage::Completing { payment };
        for product_id in self.products() {
            self.ask(Step::Sell(product_id), effects);
        }
        if self.terms.use_points > 0 {
            self.ask(Step::TakePoints, effects);
        }
        self.ask(Step::CreateDelivery, effects);
    }

    /// Notes an answer. One that nobody waits for, or that comes twice, changes nothing.
    fn hear(&mut self, step: Step, answer: &Answer) {
        let Some((_, progress)) = self.steps.iter_mut().find(|asked| **asked == (step, Progress::Running)) else { return };
        match answer {
            Answer::Done => {
                *progress = Progress::Done;
                if let Step::Refund(payment_id) = step {
                    self.payment(payment_id).status = PaymentStatus::Refunded;
                }
            }
            Answer::Refused(why) => {
                *progress = Progress::Refused;
                if matches!(self.stage, Stage::Reserving { .. } | Stage::Completing { .. }) {
                    self.stop(End::Failed, why.clone());
                }
            }
        }
    }

    fn payment(&mut self, payment_id: u64) -> &mut OrderPayment {
        let mut payments = self.payments.iter_mut();
        payments.find(|payment| payment.payment_id == payment_id).expect("only what came is given back")
    }

    fn runs(&self, which: impl Fn(Step) -> bool) -> bool {
        self.steps.iter().any(|(step, progress)| *progress == Progress::Running && which(*step))
    }

    /// Goes on as far as it can without another answer.
    fn advance(&mut self, at: Timestamp, effects: &mut Vec<Effect>) {
        match self.stage {
            Stage::Reserving { payment } if !self.runs(Step::is_forward) => match payment {
                Some(payment) => self.complete(payment, effects),
                None => self.stage = Stage::Unpaid,
            },
            Stage::Completing { payment } if !self.runs(Step::is_forward) => {
                self.turn(Stage::Confirmed { payment }, Status::Confirmed, at, effects);
            }
            Stage::Stopping { end, payment } if !self.runs(Step::is_forward) => {
                self.stage = Stage::Undoing { end };
                let done = self.steps.clone().into_iter().filter(|(_, progress)| *progress == Progress::Done);
                for undo in done.filter_map(|(step, _)| step.opposite()) {
                    self.ask(undo, effects);
                }
                if let Some(payment_id) = payment {
                    let reason = self.reason.clone();
                    self.payment(payment_id).reason = reason;
                    self.ask(Step::Refund(payment_id), effects);
                }
                self.advance(at, effects);
            }
            Stage::Undoing { end } if !self.runs(|step| !step.is_forward()) => {
                let status = match end {
                    End::Cancelled => Status::Cancelled,
                    End::Failed => Status::Failed,
                };
                self.turn(Stage::Ended { end }, status, at, effects);
            }
            _ => {}
        }
    }
}
