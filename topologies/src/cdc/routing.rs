//! From a row of the outbox to a record: topic, key, value, headers and timestamp as Debezium's Outbox Event Router makes them, by its
//! options' names. Nothing here does I/O; what cannot be routed is told with the reason.

use std::collections::BTreeMap;

use millstream::{Headers, Timestamp};

use super::cell::Cell;
use super::table::Row;
use super::topic_regex::TopicRegex;
use crate::coupons::topology::COUPON_ISSUE;
use crate::orders::topology::{DATA_PLATFORM, ORDER_EVENTS};
use crate::payments::PAYMENT_EVENTS;
use crate::time::Iso;

/// What stands for the value of `route.by.field` in `route.topic.replacement`, where no pattern is set.
const ROUTED_BY_VALUE: &str = "${routedByValue}";
/// The router's replacement where only a pattern is set.
const REPLACEMENT: &str = "outbox.event.${routedByValue}";

/// How rows become records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// `table.field.event.id`: the column of the header `id`.
    pub id: String,
    /// `table.field.event.key`: the column of the record's key.
    pub key: String,
    /// `table.field.event.payload`: the column of the record's value.
    pub payload: String,
    /// `table.field.event.timestamp`: the column of the record's timestamp; without one, when the row was committed.
    pub timestamp: Option<String>,
    /// `route.by.field`: the column that chooses the topic.
    pub route_by: String,
    /// `route.topic.replacement`: the topic of what has no route of its own. Setting it takes the shop's own routes away.
    pub replacement: Option<String>,
    /// `route.topic.regex`: what the replacement replaces; all of the value unless it is set.
    pub regex: Option<TopicRegex>,
    /// `route.tombstone.on.empty.payload`: an empty payload is a null.
    pub tombstone_on_empty: bool,
    /// `table.fields.additional.placement`: columns that become headers, and their names there. `None` is what the shop's topics have:
    /// `eventType` and `occurredAt` (ISO-8601).
    pub placement: Option<Vec<(String, String)>>,
    /// The topics by event type.
    pub routes: BTreeMap<String, String>,
}

impl Default for Routing {
    /// The shop's table and topics.
    fn default() -> Routing {
        let route = |event_type: &str, topic: &str| (event_type.to_owned(), topic.to_owned());
        let routes = [
            route("CouponIssueRequest", COUPON_ISSUE.name()),
            route("OrderCreated", ORDER_EVENTS.name()),
            route("OrderCancelled", ORDER_EVENTS.name()),
            route("OrderShipped", ORDER_EVENTS.name()),
            route("OrderDelivered", ORDER_EVENTS.name()),
            route("PaymentCompleted", PAYMENT_EVENTS.name()),
            route("PaymentFailed", PAYMENT_EVENTS.name()),
            route("PaymentRefunded", PAYMENT_EVENTS.name()),
            route("OrderStatusChanged", DATA_PLATFORM.name()),
        ];
        Routing {
            id: "id".into(),
            key: "aggregate_id".into(),
            payload: "payload".into(),
            timestamp: Some("created_at".into()),
            route_by: "event_type".into(),
            replacement: None,
            regex: None,
            tombstone_on_empty: false,
            placement: None,
            routes: routes.into(),
        }
    }
}

/// A record to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Where.
    pub topic: String,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The timestamp.
    pub timestamp: Timestamp,
    /// The headers.
    pub headers: Headers,
}

impl Routing {
    /// Sets one of the router's options, such as `route.by.field=aggregate_type`.
    ///
    /// # Errors
    /// One sentence about what is not known, or not supported.
    pub fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("{option:?} is not NAME=VALUE"))?;
        let (name, value) = (name.trim(), value.trim());
        let column = |into: &mut String| {
            if value.is_empty() {
                return Err(format!("{name} needs the name of a column"));
            }
            value.clone_into(into);
            Ok(())
        };
        let flag = || value.parse::<bool>().map_err(|_| format!("{name} is true or false"));
        match name {
            "table.field.event.id" => column(&mut self.id),
            "table.field.event.key" => column(&mut self.key),
            "table.field.event.payload" => column(&mut self.payload),
            "route.by.field" => column(&mut self.route_by),
            "table.field.event.timestamp" => {
                self.timestamp = (!value.is_empty()).then(|| value.to_owned());
                Ok(())
            }
            "route.topic.replacement" => {
                // It is for every type, as the router has it, but for those that get a route of their own after this.
                self.routes.clear();
                self.replacement = Some(value.to_owned());
                Ok(())
            }
            "route.tombstone.on.empty.payload" => flag().map(|on| self.tombstone_on_empty = on),
            "table.fields.additional.placement" => placement(value).map(|placement| self.placement = Some(placement)),
            "route.topic.regex" => {
                self.routes.clear();
                self.replacement.get_or_insert_with(|| REPLACEMENT.to_owned());
                let regex = TopicRegex::new(value).map_err(|error| format!("{name}: {error}"))?;
                self.regex = Some(regex);
                Ok(())
            }
            // What the router does by itself and the relay does, too.
            "table.expand.json.payload" if value == "false" => Ok(()),
            "table.op.invalid.behavior" if value == "warn" => Ok(()),
            "table.fields.additional.error.on.missing" if value == "true" => Ok(()),
            "table.field.event.schema.version" | "tracing.span.context.field" | "tracing.operation.name" if value.is_empty() => {
                Ok(())
            }
            "table.expand.json.payload" | "table.op.invalid.behavior" | "table.fields.additional.error.on.missing" => {
                Err(format!("{name}={value} is not supported, only its default"))
            }
            _ => Err(format!("{name:?} is no option of the outbox event router that is supported")),
        }
    }

    /// Whether what the shop writes to its outbox comes to its own topics.
    #[must_use]
    pub fn is_of_the_shop(&self) -> bool {
        let shops = Routing::default();
        let routes = shops.routes.iter().all(|(event_type, topic)| self.routes.get(event_type) == Some(topic));
        routes && Routing { routes: shops.routes.clone(), replacement: None, ..self.clone() } == shops
    }

    /// Adds a topic of an event type, such as `OrderPaid=order-events`.
    ///
    /// # Errors
    /// If it is not that.
    pub fn add_route(&mut self, route: &str) -> Result<(), String> {
        match route.split_once('=') {
            Some((event_type, topic)) if !event_type.is_empty() && !topic.is_empty() => {
                self.routes.insert(event_type.to_owned(), topic.to_owned());
                Ok(())
            }
            _ => Err(format!("{route:?} is not TYPE=TOPIC")),
        }
    }

    /// Every column that is read.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let named = [&self.id, &self.key, &self.payload, &self.route_by].into_iter().chain(&self.timestamp);
        named.chain(self.placement.iter().flatten().map(|(column, _)| column)).map(String::as_str)
    }

    /// The record of a row that was committed at a time.
    ///
    /// # Errors
    /// Why there is none, in words: the row is to be parked.
    pub fn route(&self, row: &Row, committed_at: Timestamp) -> Result<Routed, String> {
        if row.is_statement() {
            return Err("the binlog holds a statement in place of its rows: set binlog_format=ROW, and insert them again".into());
        }
        let cell = |column: &str| row.cell(column).ok_or_else(|| format!("the binlog holds no column {column} of this row"));
        let needed = |column: &str| cell(column)?.to_text().ok_or_else(|| format!("{column} is null"));
        let event_type = needed(&self.route_by)?;
        let topic = match (self.routes.get(&event_type), &self.replacement) {
            (Some(topic), _) => topic.clone(),
            (None, Some(replacement)) => match &self.regex {
                None => replacement.replace(ROUTED_BY_VALUE, &event_type),
                Some(regex) => regex.topic(&event_type, replacement)?,
            },
            (None, None) => return Err(format!("no topic is configured for {} {event_type:?}", self.route_by)),
        };
        let key = match cell(&self.key)? {
            Cell::Bytes(_) => return Err(format!("{} is not UTF-8 text", self.key)),
            _ => needed(&self.key)?,
        };
        let value = match cell(&self.payload)? {
            Cell::Null => None,
            Cell::Bytes(bytes) => Some(bytes.clone()),
            other => other.to_text().map(String::into_bytes),
        };
        let value = value.filter(|value| !(self.tombstone_on_empty && value.is_empty()));
        let timestamp = self.timestamp(row, committed_at)?;
        let mut headers = Headers::from_iter([("id", needed(&self.id)?)]);
        match &self.placement {
            None => {
                headers.push("eventType", event_type);
                headers.push("occurredAt", Iso(timestamp).to_string());
            }
            Some(placement) => {
                for (column, header) in placement {
                    if let Some(text) = cell(column)?.to_text() {
                        headers.push(header, text);
                    }
                }
            }
        }
        Ok(Routed { topic, key: key.into_bytes(), value, timestamp, headers })
    }

    fn timestamp(&self, row: &Row, committed_at: Timestamp) -> Result<Timestamp, String> {
        let Some(column) = &self.timestamp else { return Ok(committed_at) };
        let at = match row.cell(column) {
            Some(Cell::Time { micros, .. }) => micros.div_euclid(1_000),
            Some(Cell::Integer(ms)) => i64::try_from(*ms).map_err(|_| format!("{column} is no time in milliseconds"))?,
            other => return Err(format!("{column} is no time: {other:?}")),
        };
        if at < 0 { Err(format!("{column} is before 1970")) } else { Ok(Timestamp(at)) }
    }
}

/// `column:header:name,…`; without a name, the column's.
fn placement(text: &str) -> Result<Vec<(String, String)>, String> {
    let read = |part: &str| {
        let mut words = part.split(':').map(str::trim);
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(column), Some("header"), alias, None) if !column.is_empty() => {
                Ok((column.to_owned(), alias.unwrap_or(column).to_owned()))
            }
            (Some(_), Some(place @ ("envelope" | "partition")), ..) => {
                Err(format!("table.fields.additional.placement: {place} is not supported, only header"))
            }
            _ => Err(format!("table.fields.additional.placement: {part:?} is not COLUMN:header:NAME")),
        }
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::Column;
    use super::*;

    fn row(cells: [Cell; 6]) -> Row {
        let column = |(name, data_type): (&str, &str)| Column::new(name.into(), data_type, data_type, None, Some(6));
        let columns = [
            ("id", "char"),
            ("aggregate_type", "varchar"),
            ("aggregate_id", "varchar"),
            ("event_type", "varchar"),
            ("payload", "longtext"),
            ("created_at", "datetime"),
        ];
        Row { columns: columns.map(column).into(), cells: cells.into() }
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.into())
    }

    fn good() -> [Cell; 6] {
        let at = Cell::Time { micros: 1_767_323_045_678_901, digits: 6, is_moment: false };
        [text("u-1"), text("Order"), text("7"), text("OrderCreated"), text("{ }"), at]
    }

    #[test]
    fn a_row_becomes_a_record_of_the_shops_topics() {
        let routed = Routing::default().route(&row(good()), Timestamp(1)).expect("a record");
        let headers: Vec<_> = routed.headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
        assert_eq!(
            (routed.topic.as_str(), &*routed.key, routed.value.as_deref()),
            ("order-events", &b"7"[..], Some(&b"{ }"[..]))
        );
        assert_eq!(routed.timestamp, Timestamp(1_767_323_045_678));
        let expected = [("id", "u-1"), ("eventType", "OrderCreated"), ("occurredAt", "2026-01-02T03:04:05.678Z")];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.into())));
    }

    #[test]
    fn options_have_the_routers_names() {
        let mut routing = Routing::default();
        for option in [
            "route.topic.replacement=outbox.event.${routedByValue}",
            "route.by.field=aggregate_type",
            "table.field.event.key=id",
            "table.field.event.timestamp=",
            "table.fields.additional.placement=event_type:header:eventType, created_at:header",
            "route.topic.regex=(?<routedByValue>.*)",
        ] {
            routing.set(option).expect(option);
        }
        let routed = routing.route(&row(good()), Timestamp(1)).expect("a record");
        assert_eq!((routed.topic.as_str(), &*routed.key, routed.timestamp), ("outbox.event.Order", &b"u-1"[..], Timestamp(1)));
        let headers = Headers::from_iter([("id", "u-1"), ("eventType", "OrderCreated"), ("created_at", "1767323045678901")]);
        assert_eq!(routed.headers, headers);

        for wrong in [
            "nonsense",
            "no.such.option=1",
            "route.topic.regex=a(.*",
            "table.expand.json.payload=true",
            "table.fields.additional.placement=a:envelope",
            "table.fields.additional.placement=a",
            "route.by.field=",
        ] {
            assert!(routing.set(wrong).is_err(), "{wrong}");
        }
        routing.set("route.topic.regex=Order(.*)").expect("a pattern");
        routing.set("route.topic.replacement=orders$1").expect("a replacement");
        assert_eq!(routing.route(&row(good()), Timestamp(1)).expect("a record").topic, "orders");
        assert!(routing.add_route("OrderPaid").is_err());
        routing.add_route("Order=order-events").expect("a route");
        assert_eq!(routing.route(&row(good()), Timestamp(1)).expect("a record").topic, "order-events");
    }

    #[test]
    fn what_cannot_be_routed_says_why() {
        let check = |change: &dyn Fn(&mut [Cell; 6]), why: &str| {
            let mut cells = good();
            change(&mut cells);
            let said = Routing::default().route(&row(cells), Timestamp(1)).expect_err(why);
            assert!(said.contains(why), "{said}");
        };
        check(&|cells| cells[3] = text("Nonsense"), "Nonsense");
        check(&|cells| cells[3] = Cell::Null, "event_type is null");
        check(&|cells| cells[2] = Cell::Null, "aggregate_id is null");
        check(&|cells| cells[2] = Cell::Bytes(vec![0xff]), "aggregate_id is not UTF-8");
        check(&|cells| cells[0] = Cell::Null, "id is null");
        check(&|cells| cells[5] = Cell::NoTime, "created_at is no time");
        check(&|cells| cells[5] = Cell::Time { micros: -1, digits: 6, is_moment: false }, "before 1970");
        let half = Row { cells: vec![text("u-1")], ..row(good()) };
        assert!(Routing::default().route(&half, Timestamp(1)).is_err());
    }
}
