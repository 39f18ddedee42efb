//! Counts words. Run it twice: the counts go on where they were, for log and state lie in `./data`.
//!
//! `cargo run --release --example word_count -- to be or not to be`

use millstream::{App, Config, Direction, Events, Range, Record, Store, StreamBuilder, Topic};

const LINES: Topic<String, String> = Topic::new("lines");
const TOTALS: Topic<String, u64> = Topic::new("totals");
const COUNTS: Store<String, u64> = Store::keyed("counts");

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = StreamBuilder::new("word-count");
    let lines = builder.stream(&LINES);
    let words = lines.flat_map_values(|line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    words.group_by("by-word", |_, word| word.clone()).count("counts").to_stream().to(&TOTALS);
    let app = App::start(builder.build()?, Config::embedded("./data"))?;

    let handle = app.handle();
    let line = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let written = handle.append(Events::new().with(&LINES, &Record::new("arguments".to_owned(), line, handle.now()))).await?;
    handle.at_least(&written, "counts", std::time::Duration::from_secs(5)).await?;
    let counts = handle.view("counts").ok_or("there is no such store")?.typed(&COUNTS);
    for (word, count) in counts.page(&Range::all(), Direction::Forward, 100)?.durable().await? {
        println!("{count:6} {word}");
    }
    drop((counts, handle));
    app.stop().map_or(Ok(()), |failure| Err(failure.into()))
}
