//! Global tables: what topologies are refused, and that every task sees all of the table as it is.

use millstream::codec::{Decimal, Utf8};
use millstream::testing::TestDriver;
use millstream::{FeedEvent, Record, Store, StreamBuilder, Timestamp, Topic, Topology};

use super::topologies::mistakes;

const RATES: Topic<u64, String> = Topic::with_codecs("rates", &Decimal, &Utf8).partitions(3).compacted();
const ORDERS: Topic<String, u64> = Topic::new("orders").partitions(4);
const PRICED: Topic<String, String> = Topic::new("priced");
const TABLE: Store<u64, String> = Store::keyed("rates");

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("app");
    let rates = builder.global_table(&RATES, "rates");
    let orders = builder.stream(&ORDERS);
    let priced = orders.left_join_global(
        "with-rate",
        &rates,
        |_, currency| *currency,
        |currency, rate| format!("{currency}:{}", rate.as_deref().unwrap_or("-")),
    );
    priced.to(&PRICED);
    builder.build().expect("the topology is valid")
}

fn rate(currency: u64, rate: &str) -> Record<u64, String> {
    Record::new(currency, rate.to_owned(), Timestamp(7))
}

#[test]
fn global_tables_that_cannot_be_are_refused() {
    let forgets = mistakes(|builder| {
        builder.global_table(&Topic::<u64, String>::new("rates"), "rates");
        builder.stream(&ORDERS);
    });
    let expected = "global table \"rates\" is of topic \"rates\", which forgets: make it compacted or keep it forever";
    assert_eq!(forgets, [expected]);
    let twice = mistakes(|builder| {
        builder.global_table(&RATES, "rates");
        builder.global_table(&RATES, "again");
        builder.stream(&RATES);
    });
    assert_eq!(twice, ["topic \"rates\" is a global table and is read otherwise, too"; 2]);
    let names = mistakes(|builder| {
        builder.stream(&ORDERS).group_by_key().count("rates");
        builder.global_table(&RATES, "rates");
    });
    assert_eq!(names, ["two stores are named \"rates\""]);
}

#[test]
fn feeds_that_cannot_be_are_refused() {
    const DAY: Store<(u64, u64), FeedEvent<String>> = Store::ordered("heard").ttl_ms(86_400_000);
    let news = || Topic::<u64, String>::new("news");
    for forgets in [news().compacted(), news().retention_ms(86_399_999)] {
        let mistakes = mistakes(|builder| {
            builder.feed(&forgets, &DAY);
            builder.stream(&ORDERS);
        });
        assert_eq!(mistakes, ["feed \"heard\" is of topic \"news\", which forgets events before the feed does"]);
    }
    let twice = mistakes(|builder| {
        builder.feed(&news(), &DAY);
        builder.stream(&news());
    });
    assert_eq!(twice, ["topic \"news\" is a feed and is read otherwise, too"]);
}

#[test]
fn every_task_sees_all_of_the_table_as_it_is_at_the_moment() {
    let mut driver = TestDriver::new(topology());
    for currency in 0..20 {
        driver.pipe(&RATES, &rate(currency, &format!("r{currency}")));
    }
    driver.pipe_bytes("rates", Some(b"not a number"), Some(b"x"), Timestamp(8), &millstream::Headers::EMPTY);
    driver.pipe_bytes("rates", Some(b"3"), None, Timestamp(8), &millstream::Headers::EMPTY);
    driver.pipe(&RATES, &rate(4, "new"));
    let order = |driver: &mut TestDriver, currency: u64| {
        driver.pipe(&ORDERS, &Record::new(format!("order-{currency}"), currency, Timestamp(1)));
        driver.read(&PRICED).pop().expect("it is priced").value
    };
    for _ in 0..2 {
        for currency in 0..20 {
            let expected = match currency {
                3 => "3:-".to_owned(),
                4 => "4:new".to_owned(),
                n => format!("{n}:r{n}"),
            };
            assert_eq!(order(&mut driver, currency), expected);
        }
        assert_eq!(driver.rows(&TABLE).len(), 19);
        assert_eq!(driver.get(&TABLE, &3), None);
        driver.restart();
    }
    assert!(topology().to_text("").ends_with("  Global table: rates (topic: rates)\n"), "{}", topology().to_text(""));
    for (shown, edge) in [
        (topology().to_mermaid(""), "  topic_rates([\"rates\"]) --> store_rates[(\"rates\")]\n"),
        (topology().to_dot(""), "  topic_rates -> store_rates;\n"),
    ] {
        assert!(shown.contains(edge), "{shown}");
    }
}
