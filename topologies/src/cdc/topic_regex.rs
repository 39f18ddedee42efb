//! `route.topic.regex`: the topic of a row by a pattern and a replacement, as Kafka Connect's `RegexRouter` has it, which Debezium's router
//! uses: a value that the whole pattern matches becomes the replacement, any other stays what it is.

use regex::Regex;

/// A pattern.
#[derive(Clone, Debug)]
pub struct TopicRegex {
    pattern: String,
    regex: Regex,
}

impl PartialEq for TopicRegex {
    fn eq(&self, other: &TopicRegex) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for TopicRegex {}

impl TopicRegex {
    /// Reads a pattern in the syntax that Java's and this have in common: no look-around, no back references.
    ///
    /// # Errors
    /// Why it is none.
    pub fn new(pattern: &str) -> Result<TopicRegex, String> {
        let last = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        let regex = Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(last)?;
        Ok(TopicRegex { pattern: pattern.to_owned(), regex })
    }

    /// The topic of a value. In the replacement `$1` and `${name}` stand for groups, and `\` for the character after it.
    ///
    /// # Errors
    /// If the replacement names a group that there is not.
    pub fn topic(&self, value: &str, replacement: &str) -> Result<String, String> {
        let Some(groups) = self.regex.captures(value) else { return Ok(value.to_owned()) };
        let mut topic = String::new();
        let mut rest = replacement.chars().peekable();
        while let Some(next) = rest.next() {
            match next {
                '\\' => topic.extend(rest.next()),
                '$' if rest.peek() == Some(&'{') => {
                    let name: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    let known = self.regex.capture_names().flatten().any(|known| known == name);
                    if !known {
                        return Err(format!("route.topic.regex has no group {name:?}"));
                    }
                    topic.push_str(groups.name(&name).map_or("", |group| group.as_str()));
                }
                '$' => {
                    // As many digits as there is a group for, as Java has it.
                    let mut number = None;
                    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                        let longer = number.unwrap_or(0) * 10 + digit as usize;
                        if number.is_some() && longer >= groups.len() {
                            break;
                        }
                        number = Some(longer);
                        rest.next();
                    }
                    let number = number.filter(|number| *number < groups.len());
                    let number =
                        number.ok_or_else(|| format!("{replacement:?} names a group that route.topic.regex does not have"))?;
                    topic.push_str(groups.get(number).map_or("", |group| group.as_str()));
                }
                other => topic.push(other),
            }
        }
        Ok(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_those_of_kafkas_router() {
        for (pattern, replacement, value, topic) in [
            ("(?<routedByValue>.*)", "outbox.event.${routedByValue}", "Order", Ok("outbox.event.Order")),
            ("(.*)Created", "new-$1", "OrderCreated", Ok("new-Order")),
            ("(.*)Created", "new-$1", "OrderShipped", Ok("OrderShipped")), // not the whole of it: as it is
            ("Order", "orders", "OrderCreated", Ok("OrderCreated")),
            ("Order|Payment", "all", "Payment", Ok("all")),
            ("(a)(b)", "$10-$2", "ab", Ok("a0-b")),
            ("(a)(b)?", "$1$2", "a", Ok("a")),
            ("a", r"\$1\\", "a", Ok(r"$1\")),
            ("a", "$1", "a", Err(())),
            ("a", "${x}", "a", Err(())),
            ("a", "$", "a", Err(())),
        ] {
            let regex = TopicRegex::new(pattern).expect(pattern);
            assert_eq!(
                regex.topic(value, replacement).map_err(drop),
                topic.map(str::to_owned),
                "{pattern} {replacement} {value}"
            );
        }
        for wrong in ["(", "(?<!a)b", r"(a)\1"] {
            assert!(TopicRegex::new(wrong).is_err(), "{wrong}");
        }
    }
}
