//! Types of values and their bounds, with the notation of the schema tables.

use std::fmt;

/// The type of a setting, in DescribeConfigs' numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// `true` or `false`, in any case.
    Boolean,
    /// Any text.
    String,
    /// 32 bits, signed.
    Int,
    /// 16 bits, signed.
    Short,
    /// 64 bits, signed.
    Long,
    /// A decimal number.
    Double,
    /// Comma-separated values.
    List,
    /// The name of a Java class; kept as text.
    Class,
    /// Text that is never shown.
    Password,
}

impl ValueType {
    /// The number that DescribeConfigs sends (`ConfigEntry.ConfigType`).
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }

    /// The name in the schema tables (`INT`, `LIST`, …).
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [
            Self::Boolean,
            Self::String,
            Self::Int,
            Self::Short,
            Self::Long,
            Self::Double,
            Self::List,
            Self::Class,
            Self::Password,
        ]
        .into_iter()
        .find(|t| t.name() == name)
    }

    /// Reads `text` as this type; the error is a sentence saying what was expected.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let trimmed = text.trim();
        let not_a_number = || format!("Not a number of type {}", self.name());
        Ok(match self {
            Self::Boolean => {
                if trimmed.eq_ignore_ascii_case("true") {
                    Value::Boolean(true)
                } else if trimmed.eq_ignore_ascii_case("false") {
                    Value::Boolean(false)
                } else {
                    return Err("Expected value to be either true or false".to_owned());
                }
            }
            Self::Int => Value::Int(trimmed.parse().map_err(|_| not_a_number())?),
            Self::Short => Value::Short(trimmed.parse().map_err(|_| not_a_number())?),
            Self::Long => Value::Long(trimmed.parse().map_err(|_| not_a_number())?),
            Self::Double => {
                let number: f64 = trimmed.parse().map_err(|_| not_a_number())?;
                if !number.is_finite() {
                    return Err(not_a_number());
                }
                Value::Double(number)
            }
            Self::List => Value::List(split_list(trimmed)),
            Self::String | Self::Class | Self::Password => Value::Text(trimmed.to_owned()),
        })
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Splits Kafka's list notation: commas with optional blanks; an empty text is an empty list.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    let text = text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// A parsed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`ValueType::Boolean`].
    Boolean(bool),
    /// STRING, CLASS and PASSWORD.
    Text(String),
    /// See [`ValueType::Int`].
    Int(i32),
    /// See [`ValueType::Short`].
    Short(i16),
    /// See [`ValueType::Long`].
    Long(i64),
    /// See [`ValueType::Double`].
    Double(f64),
    /// See [`ValueType::List`].
    List(Vec<String>),
}

impl Value {
    /// The value as a whole number, whatever its width.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(i64::from(*n)),
            Self::Short(n) => Some(i64::from(*n)),
            Self::Long(n) => Some(*n),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Double(n) => Some(*n),
            #[expect(
                clippy::cast_precision_loss,
                reason = "bounds are compared, not stored"
            )]
            other => other.as_i64().map(|n| n as f64),
        }
    }
}

/// What a value must satisfy beyond its type; parsed from the tables' last column.
#[derive(Debug, Clone, PartialEq)]
pub enum Validator {
    /// Anything of the type.
    Any,
    /// Whole numbers; `or` is one more value that is allowed outside the bounds.
    Between {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: Option<i64>,
        /// Allowed besides.
        or: Option<i64>,
    },
    /// Decimal numbers.
    BetweenDouble {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: Option<f64>,
    },
    /// One of these words, or (for lists) each one of these, without repetition.
    OneOf {
        /// The words.
        words: Vec<&'static str>,
        /// Whether case matters.
        ignore_case: bool,
    },
    /// Not empty.
    NonEmpty,
    /// A list without empty or repeated elements.
    NonEmptyElements,
    /// `partition:broker` pairs, or `*` alone.
    ThrottledReplicas,
    /// `latest`, `earliest`, or `by_duration:` and an ISO-8601 duration.
    OffsetReset,
}

impl Validator {
    /// Reads the notation of the tables; `None` if it is not known.
    pub(crate) fn from_notation(value_type: ValueType, text: &'static str) -> Option<Self> {
        match text {
            "" | "non-null string" => return Some(Self::Any),
            "non-empty string" => return Some(Self::NonEmpty),
            "non-empty list" => return Some(Self::NonEmptyElements),
            _ if text.starts_with("[partitionId]") => return Some(Self::ThrottledReplicas),
            _ if text.contains("by_duration:") => return Some(Self::OffsetReset),
            _ => {}
        }
        let (text, ignore_case) = match text.strip_prefix("(case insensitive) ") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
        let parts: Vec<&'static str> = inside.split(',').map(str::trim).collect();
        if parts.get(1) == Some(&"...") {
            let (min, max) = (*parts.first()?, parts.get(2).copied());
            if value_type == ValueType::Double {
                return Some(Self::BetweenDouble {
                    min: min.parse().ok()?,
                    max: max.map(str::parse).transpose().ok()?,
                });
            }
            return Some(Self::Between {
                min: min.parse().ok()?,
                max: max.map(str::parse).transpose().ok()?,
                or: rest
                    .trim()
                    .strip_prefix("or ")
                    .map(str::parse)
                    .transpose()
                    .ok()?,
            });
        }
        Some(Self::OneOf {
            words: parts,
            ignore_case,
        })
    }

    /// Checks a parsed value; the error is a sentence saying what is allowed.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        match self {
            Self::Any => Ok(()),
            Self::Between { min, max, or } => {
                let Some(number) = value.as_i64() else {
                    return Ok(());
                };
                if Some(number) == *or {
                    Ok(())
                } else if number < *min {
                    Err(format!("Value must be at least {min}"))
                } else if let Some(max) = max.filter(|max| number > *max) {
                    Err(format!("Value must be no more than {max}"))
                } else {
                    Ok(())
                }
            }
            Self::BetweenDouble { min, max } => {
                let Some(number) = value.as_f64() else {
                    return Ok(());
                };
                if number < *min {
                    Err(format!("Value must be at least {min}"))
                } else if let Some(max) = max.filter(|max| number > *max) {
                    Err(format!("Value must be no more than {max}"))
                } else {
                    Ok(())
                }
            }
            Self::OneOf { words, ignore_case } => {
                let allowed = |text: &str| {
                    words
                        .iter()
                        .any(|w| *w == text || (*ignore_case && w.eq_ignore_ascii_case(text)))
                };
                match value {
                    Value::Text(text) if !allowed(text) => {
                        Err(format!("String must be one of: {}", words.join(", ")))
                    }
                    Value::List(items) => {
                        no_repetition(items)?;
                        if items.iter().all(|item| allowed(item)) {
                            Ok(())
                        } else {
                            Err(format!(
                                "Each value of the list must be one of: {}",
                                words.join(", ")
                            ))
                        }
                    }
                    _ => Ok(()),
                }
            }
            Self::NonEmpty => match value {
                Value::Text(text) if text.is_empty() => Err("String must be non-empty".to_owned()),
                _ => Ok(()),
            },
            Self::NonEmptyElements => match value {
                Value::List(items) if items.iter().any(String::is_empty) => {
                    Err("Values of the list must not be empty".to_owned())
                }
                Value::List(items) => no_repetition(items),
                _ => Ok(()),
            },
            Self::ThrottledReplicas => match value {
                Value::List(items) if items.len() == 1 && items[0] == "*" => Ok(()),
                Value::List(items) if items.iter().all(|item| is_replica_pair(item)) => Ok(()),
                _ => Err(
                    "Must be the literal '*' or a list of replicas as partitionId:brokerId"
                        .to_owned(),
                ),
            },
            Self::OffsetReset => match value {
                Value::Text(text) if text == "latest" || text == "earliest" => Ok(()),
                Value::Text(text)
                    if text
                        .strip_prefix("by_duration:")
                        .is_some_and(is_iso_duration) =>
                {
                    Ok(())
                }
                _ => Err(
                    "Must be latest, earliest or by_duration:PnDTnHnMn.nS (a duration that is not negative)"
                        .to_owned(),
                ),
            },
        }
    }
}

fn no_repetition(items: &[String]) -> Result<(), String> {
    for (at, item) in items.iter().enumerate() {
        if items[..at].contains(item) {
            return Err(format!("Value {item} is given twice"));
        }
    }
    Ok(())
}

fn is_replica_pair(text: &str) -> bool {
    text.split_once(':').is_some_and(|(partition, broker)| {
        partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
    })
}

/// `PnDTnHnMn.nS`: at least one part, parts in order, digits before each letter.
fn is_iso_duration(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(['P', 'p']) else {
        return false;
    };
    let (days, time) = match rest.split_once(['T', 't']) {
        Some((days, time)) if !time.is_empty() => (days, time),
        Some(_) => return false,
        None => (rest, ""),
    };
    parts_in_order(days, "D") && parts_in_order(time, "HMS") && !rest.is_empty()
}

fn parts_in_order(mut text: &str, letters: &str) -> bool {
    for letter in letters.chars() {
        let found = text.find([letter, letter.to_ascii_lowercase()]);
        let Some(at) = found else { continue };
        let number = &text[..at];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || (letter != 'S' && number.contains('.')) {
            return false;
        }
        text = &text[at + 1..];
    }
    text.is_empty()
}
