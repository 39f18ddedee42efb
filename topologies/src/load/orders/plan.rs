//! What happens to each order, decided by a seed alone: who orders what, who pays twice, too late, the wrong amount or never, who
//! cancels, and what races with what. Nothing is sent here, and answers change nothing.

use crate::load::random::Random;

/// Products by number. The first costs nothing, the last [`SCARCE`] run out now and then.
pub const PRODUCTS: u32 = 24;
/// How many products there are never enough of.
pub const SCARCE: u32 = 4;
/// What a scarce product begins with.
pub const SCARCE_STOCK: u64 = 50;
/// What every other product begins with: more than any load takes.
pub const PLENTY: u64 = 1 << 40;
/// The most that is added to a scarce product, and to a user's points, at once.
const MOST_STOCK: u64 = 20;
const MOST_POINTS: u64 = 300;
/// The most points that an order uses.
const MOST_USED: u64 = 200;

/// Of a thousand requests that make something: bad ones, additions of points and of stock. The rest are orders.
const BAD: u64 = 10;
const POINTS: u64 = 60;
const STOCK: u64 = 10;
/// Likewise, where there is an outbox: orders that an outside program makes, and payments of orders that nobody makes.
const OUTSIDE: u64 = 120;
const UNMATCHED: u64 = 5;
/// Of a hundred payments of orders made over HTTP, how many are then told by the outbox.
const PAID_OUTSIDE: u64 = 15;
/// The longest pause between two transactions that tell of one order.
const OUTSIDE_PAUSE_MS: u64 = 100;
/// Of a thousand requests, how many are sent twice with one key.
const TWICE: u64 = 30;
/// A request that is sent twice is sent again at once or up to so much later: long enough to lie across a restart.
const TWIN_DELAY_MS: u64 = 20_000;

/// What one of a product costs.
#[must_use]
pub fn price(product: u32) -> u64 {
    100 * u64::from(product)
}

/// An order to be made; users and products by their number within the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Who orders.
    pub user: u32,
    /// Products and how many of each.
    pub lines: Vec<(u32, u32)>,
    /// How many points it uses.
    pub points: u64,
    /// What happens to it once it is made, and how long after that in milliseconds.
    pub acts: Vec<(u64, Act)>,
}

impl Order {
    /// What it costs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|(product, quantity)| price(*product) * u64::from(*quantity)).sum()
    }

    /// Whether nothing but its payment happens to it, at once.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.acts == [(0, Act::Pay)]
    }
}

/// Something that happens to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The provider tells of a payment of the right amount.
    Pay,
    /// The same, by a row of the outbox.
    PayOutside,
    /// The provider tells of a payment of another amount.
    PayWrong,
    /// The provider tells that a payment failed.
    PayFails,
    /// Its user changes their mind.
    Cancel,
    /// The carrier has it.
    Ship,
    /// Its user has it.
    Deliver,
}

/// An order that an outside program makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The order. Nothing happens to it but what is told.
    pub order: Order,
    /// What is told, transaction by transaction, and the pause before each in milliseconds.
    pub commits: Vec<(u64, Vec<Told>)>,
}

/// What an outside program tells of its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was made.
    Made,
    /// It was paid.
    Paid,
    /// It was paid, once more.
    PaidAgain,
    /// It was paid, but another amount.
    PaidWrong,
}

impl Told {
    /// Of payments, each with an id of its own.
    pub const PAYMENTS: [Told; 3] = [Told::Paid, Told::PaidAgain, Told::PaidWrong];
}

/// A request that the shop has to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The body is not JSON.
    NotJson,
    /// The order has no lines.
    NoItems,
    /// Two lines of one product.
    SameProduct,
    /// A line of nothing.
    NoQuantity,
    /// There is no such product.
    UnknownProduct,
    /// More points than it costs.
    TooManyPoints,
    /// A payment of no order.
    PayUnknown,
    /// A payment of less than nothing.
    PayNegative,
    /// A cancel of no order.
    CancelUnknown,
    /// The route takes no PUT.
    WrongMethod,
}

impl Bad {
    const ALL: [Bad; 10] = [
        Bad::NotJson,
        Bad::NoItems,
        Bad::SameProduct,
        Bad::NoQuantity,
        Bad::UnknownProduct,
        Bad::TooManyPoints,
        Bad::PayUnknown,
        Bad::PayNegative,
        Bad::CancelUnknown,
        Bad::WrongMethod,
    ];
}

/// One request that makes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// An order.
    Order(Order),
    /// Points for a user.
    AddPoints {
        /// Who gets them.
        user: u32,
        /// How many.
        add: u64,
    },
    /// Stock of a scarce product.
    AddStock {
        /// Which.
        product: u32,
        /// How many.
        add: u64,
    },
    /// One to be refused.
    Bad(Bad),
    /// An order of an outside program.
    Outside(Outside),
    /// A payment of no order, by an outside program.
    Unmatched,
}

/// The rest of the load.
pub struct Plan {
    random: Random,
    users: u32,
    has_outbox: bool,
}

impl Plan {
    /// A load of `users`, of which an outside program does a part where there is an outbox.
    #[must_use]
    pub fn new(seed: u32, users: u32, has_outbox: bool) -> Plan {
        Plan { random: Random(seed.into()), users, has_outbox }
    }

    /// Whether a request is to be sent twice, and if so how long after the first time, in milliseconds.
    pub fn twin(&mut self) -> Option<u64> {
        let twice = self.random.below(1000) < TWICE;
        twice.then(|| if self.random.below(2) == 0 { 0 } else { self.random.below(TWIN_DELAY_MS) })
    }

    /// The next request.
    pub fn next(&mut self) -> Job {
        let Plan { random, users, has_outbox } = self;
        let user = random.below((*users).into()) as u32;
        match random.below(1000) {
            kind if kind < BAD => Job::Bad(Bad::ALL[random.below(Bad::ALL.len() as u64) as usize]),
            kind if kind < BAD + POINTS => Job::AddPoints { user, add: 1 + random.below(MOST_POINTS) },
            kind if kind < BAD + POINTS + STOCK => {
                let product = PRODUCTS - 1 - random.below(SCARCE.into()) as u32;
                Job::AddStock { product, add: 1 + random.below(MOST_STOCK) }
            }
            kind if *has_outbox && kind < BAD + POINTS + STOCK + UNMATCHED => Job::Unmatched,
            kind if *has_outbox && kind < BAD + POINTS + STOCK + UNMATCHED + OUTSIDE => {
                let order = Order { acts: vec![], ..order(random, user) };
                Job::Outside(Outside { order, commits: commits(random) })
            }
            _ => {
                let mut order = order(random, user);
                if *has_outbox {
                    let payments = order.acts.iter_mut().filter(|(_, act)| *act == Act::Pay);
                    payments.filter(|_| random.below(100) < PAID_OUTSIDE).for_each(|(_, act)| *act = Act::PayOutside);
                }
                Job::Order(order)
            }
        }
    }
}

/// What an outside program tells of an order, in which transactions.
fn commits(random: &mut Random) -> Vec<(u64, Vec<Told>)> {
    use Told::{Made, Paid, PaidAgain, PaidWrong};
    let told = match random.below(20) {
        0..5 => vec![vec![Made], vec![Paid]],
        5..7 => vec![vec![Made, Paid]],
        7..11 => vec![vec![Paid], vec![Made]],
        11 => vec![vec![Paid, Made]],
        12 => vec![vec![Paid], vec![Paid], vec![Made]],
        13 => vec![vec![Made], vec![Paid, Paid]],
        14 => vec![vec![Paid], vec![PaidAgain], vec![Made]],
        15 => vec![vec![Made], vec![Paid], vec![PaidAgain]],
        16 => vec![vec![Paid], vec![Made], vec![PaidAgain]],
        17 => vec![vec![PaidWrong], vec![Made], vec![Paid]],
        18 => vec![vec![Made], vec![Made, Paid]],
        _ => vec![vec![Made]],
    };
    told.into_iter().map(|told| (random.below(OUTSIDE_PAUSE_MS), told)).collect()
}

fn order(random: &mut Random, user: u32) -> Order {
    let mut lines = Vec::with_capacity(3);
    for _ in 0..1 + random.below(3) {
        let plenty = u64::from(PRODUCTS - SCARCE);
        let product = if random.below(40) == 0 { plenty + random.below(SCARCE.into()) } else { random.below(plenty) } as u32;
        if lines.iter().all(|(known, _)| *known != product) {
            lines.push((product, 1 + random.below(3) as u32));
        }
    }
    let mut order = Order { user, lines, points: 0, acts: acts(random) };
    if random.below(5) == 0 {
        order.points = (1 + random.below(MOST_USED)).min(order.total());
    }
    order
}

/// What happens to an order, and when.
fn acts(random: &mut Random) -> Vec<(u64, Act)> {
    use Act::{Cancel, Deliver, Pay, PayFails, PayWrong, Ship};
    let soon = |random: &mut Random| 20 + random.below(200);
    match random.below(1000) {
        0..30 => vec![],
        30..60 => vec![(0, Cancel)],
        60..100 => vec![(0, Pay), (0, Pay)],
        100..120 => vec![(0, PayFails)],
        120..150 => vec![(0, PayFails), (0, Pay)],
        150..220 => vec![(0, Pay), (0, Cancel)],
        220..240 => vec![(0, Cancel), (5, Pay)],
        240..270 => vec![(0, Pay), (soon(random), Cancel)],
        270..290 => vec![(0, PayWrong), (0, Pay)],
        290..300 => vec![(0, Pay), (0, Cancel), (0, Cancel), (0, Ship)],
        300..320 => {
            let at = soon(random);
            vec![(0, Pay), (at, Ship), (at, Cancel)]
        }
        320..550 => {
            let at = soon(random);
            vec![(0, Pay), (at, Ship), (at + soon(random), Deliver)]
        }
        _ => vec![(0, Pay)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_everything_happens() {
        let jobs = |seed| {
            let mut plan = Plan::new(seed, 100, false);
            (0..20_000).map(|_| plan.next()).collect::<Vec<_>>()
        };
        assert_eq!(jobs(1), jobs(1));
        assert_ne!(jobs(1), jobs(2));
        let jobs = jobs(7);
        for bad in Bad::ALL {
            assert!(jobs.contains(&Job::Bad(bad)), "{bad:?}");
        }
        let orders: Vec<&Order> =
            jobs.iter().filter_map(|job| if let Job::Order(order) = job { Some(order) } else { None }).collect();
        assert!(orders.iter().any(|order| order.is_plain()) && orders.iter().any(|order| order.acts.is_empty()));
        assert!(orders.iter().any(|order| order.total() == order.points && order.points == 0), "an order for nothing");
        for act in [Act::Pay, Act::PayWrong, Act::PayFails, Act::Cancel, Act::Ship, Act::Deliver] {
            assert!(orders.iter().any(|order| order.acts.iter().any(|(_, a)| *a == act)), "{act:?}");
        }
        let mut plan = Plan::new(7, 100, true);
        let jobs: Vec<Job> = (0..20_000).map(|_| plan.next()).collect();
        let outside = |is: fn(&Outside) -> bool| jobs.iter().any(|job| matches!(job, Job::Outside(outside) if is(outside)));
        assert!(
            outside(|outside| outside.commits[0].1 == [Told::Paid]) && outside(|outside| outside.commits[0].1 == [Told::Made])
        );
        assert!(outside(|outside| outside.commits.len() == 1 && outside.commits[0].1.len() == 2));
        assert!(jobs.contains(&Job::Unmatched));
        let paid_outside = |job: &Job| matches!(job, Job::Order(order) if order.acts.contains(&(0, Act::PayOutside)));
        assert!(jobs.iter().any(paid_outside));
        for order in orders {
            assert!(order.points <= order.total() && order.user < 100 && (1..=3).contains(&order.lines.len()), "{order:?}");
        }
    }
}
