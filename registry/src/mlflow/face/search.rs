//! Which models and versions does a filter of MLflow's find, in which order, page by page?
//!
//! `name = 'risk'`, `name LIKE 'ri%'`, `tags.team = 'lending'`, `run_id IN ('1', '2')`, with AND between them. A page's token is where the
//! next one begins: between two pages the registry may have changed, as with MLflow.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::forms::{model_form, run_id, source, version_form, versions as versions_of};
use super::{Given, Refused};
use crate::book::{Book, Model, Version};

/// Terms of one filter, at most.
const TERMS_MAX: usize = 64;

/// The tag by which MLflow keeps prompts among its models.
const PROMPT: &str = ".mlflow.prompt.is_prompt";

/// Entries of one page, at most; MLflow's own bound for models.
const PAGE_MAX: usize = 1000;

/// Registered models.
pub(super) fn models(book: &Book, given: &Given<'_>) -> Result<Value, Refused> {
    let filter = Filter::read(&given.maybe("filter")?.unwrap_or_default())?;
    let mut found = Vec::new();
    for model in book.models() {
        if filter.finds(&|field| of_model(model, field))? {
            found.push(model);
        }
    }
    sort(&mut found, &given.texts("order_by")?, |model: &&Model, key| match key {
        "name" => Some(Key::Text(model.name.clone())),
        "creation_timestamp" => Some(Key::Number(model.created.time_ms)),
        "last_updated_timestamp" => Some(Key::Number(model.changed.time_ms)),
        _ => None,
    })?;
    let (page, token) = page(&found, given, 100)?;
    let forms: Vec<Value> = page.iter().map(|model| model_form(book, model)).collect();
    Ok(with_token(json!({ "registered_models": forms }), token))
}

/// Versions of all models.
pub(super) fn versions(book: &Book, given: &Given<'_>) -> Result<Value, Refused> {
    let filter = Filter::read(&given.maybe("filter")?.unwrap_or_default())?;
    let mut found = Vec::new();
    for model in book.models() {
        for version in versions_of(model) {
            if filter.finds(&|field| of_version(version, field))? {
                found.push(version);
            }
        }
    }
    // The order that MLflow has where nobody asks for one.
    found.sort_by(|a, b| {
        let newest = b.changed.time_ms.cmp(&a.changed.time_ms);
        newest.then_with(|| a.model.cmp(&b.model)).then_with(|| b.number.cmp(&a.number))
    });
    sort(&mut found, &given.texts("order_by")?, |version: &&Version, key| match key {
        "name" => Some(Key::Text(version.model.clone())),
        "version_number" => Some(Key::Number(version.number)),
        "creation_timestamp" => Some(Key::Number(version.pushed.time_ms)),
        "last_updated_timestamp" => Some(Key::Number(version.changed.time_ms)),
        _ => None,
    })?;
    let (page, token) = page(&found, given, PAGE_MAX)?;
    let forms: Vec<Value> = page.iter().map(|version| version_form(book, version)).collect();
    Ok(with_token(json!({ "model_versions": forms }), token))
}

fn with_token(mut form: Value, token: Option<usize>) -> Value {
    if let Some(token) = token {
        form["next_page_token"] = token.to_string().into();
    }
    form
}

fn page<'a, T>(found: &'a [T], given: &Given<'_>, usual: usize) -> Result<(&'a [T], Option<usize>), Refused> {
    let number = |key: &str| match given.maybe(key)?.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Refused::invalid(format!("{key}: expected what the page before told, or a number"))),
    };
    let (from, count): (Option<usize>, Option<usize>) = (number("page_token")?, number("max_results")?);
    let (from, count) = (from.unwrap_or(0).min(found.len()), count.unwrap_or(usual).clamp(1, PAGE_MAX));
    let to = from.saturating_add(count).min(found.len());
    Ok((&found[from..to], (to < found.len()).then_some(to)))
}

/// What is sorted by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(u64),
    Text(String),
}

fn sort<T>(found: &mut [T], order: &[String], key: impl Fn(&T, &str) -> Option<Key>) -> Result<(), Refused> {
    // The last one first: what comes after it keeps what it put in order.
    for wanted in order.iter().rev() {
        let mut words = wanted.split_whitespace();
        let (field, direction) = (words.next().unwrap_or_default(), words.next().unwrap_or("ASC"));
        let is_down = direction.eq_ignore_ascii_case("desc");
        if found.first().is_some_and(|first| key(first, field).is_none())
            || !(is_down || direction.eq_ignore_ascii_case("asc"))
        {
            return Err(Refused::invalid(format!(
                "Invalid order_by clause {wanted:?}: expected name, version_number, creation_timestamp or last_updated_timestamp, then ASC or DESC"
            )));
        }
        found.sort_by(|a, b| {
            let order = key(a, field).cmp(&key(b, field));
            if is_down { order.reverse() } else { order }
        });
    }
    Ok(())
}

/// Terms that must all hold.
struct Filter(Vec<Term>);

struct Term {
    field: String,
    way: Way,
    values: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Is(Ordering),
    IsNot,
    AtLeast,
    AtMost,
    Like { any_case: bool },
    In,
}

/// What a model or version has there.
enum Held {
    Text(Option<String>),
    Number(u64),
    /// No such field.
    Nothing,
}

fn of_model(model: &Model, field: &str) -> Held {
    match field {
        "name" => Held::Text(Some(model.name.clone())),
        _ => tagged(&model.tags, field),
    }
}

fn of_version(version: &Version, field: &str) -> Held {
    match field {
        "name" => Held::Text(Some(version.model.clone())),
        "run_id" => Held::Text(Some(run_id(version).to_owned())),
        "source_path" => Held::Text(Some(source(version))),
        "version_number" => Held::Number(version.number),
        _ => tagged(&version.tags, field),
    }
}

fn tagged(tags: &BTreeMap<String, String>, field: &str) -> Held {
    let key = ["tags.", "tag."].iter().find_map(|prefix| field.strip_prefix(prefix));
    key.map_or(Held::Nothing, |key| Held::Text(tags.get(key).cloned()))
}

impl Filter {
    fn read(text: &str) -> Result<Filter, Refused> {
        let wrong = |what: &str| {
            Refused::invalid(format!(
                "Invalid filter {text:?}: {what}; expected such as name = 'risk' AND tags.team = 'lending'"
            ))
        };
        let words = words(text).map_err(wrong)?;
        let (mut words, mut terms) = (words.into_iter().peekable(), Vec::new());
        while words.peek().is_some() {
            if !terms.is_empty() && !matches!(words.next(), Some(Word::Bare(and)) if and.eq_ignore_ascii_case("and")) {
                return Err(wrong("terms have AND between them"));
            }
            let (Some(Word::Bare(field) | Word::Quoted(field)), Some(Word::Bare(way))) = (words.next(), words.next())
            else {
                return Err(wrong("a term is a field, a comparison and a value"));
            };
            let way = match way.to_ascii_uppercase().as_str() {
                "=" => Way::Is(Ordering::Equal),
                "<" => Way::Is(Ordering::Less),
                ">" => Way::Is(Ordering::Greater),
                "!=" => Way::IsNot,
                ">=" => Way::AtLeast,
                "<=" => Way::AtMost,
                "LIKE" => Way::Like { any_case: false },
                "ILIKE" => Way::Like { any_case: true },
                "IN" => Way::In,
                _ => return Err(wrong("a comparison is =, !=, <, <=, >, >=, LIKE, ILIKE or IN")),
            };
            let mut values = Vec::new();
            if way == Way::In {
                loop {
                    match words.next() {
                        Some(Word::Bare(mark)) if mark == ")" && !values.is_empty() => break,
                        Some(Word::Bare(mark)) if mark == "(" || mark == "," => {}
                        Some(Word::Quoted(value)) => values.push(value),
                        _ => return Err(wrong("IN has quoted values in parentheses")),
                    }
                }
            } else {
                match words.next() {
                    Some(Word::Quoted(value) | Word::Bare(value)) => values.push(value),
                    None => return Err(wrong("a value is missing")),
                }
            }
            terms.push(Term { field, way, values });
            if terms.len() > TERMS_MAX {
                return Err(wrong("it has more than 64 terms"));
            }
        }
        Ok(Filter(terms))
    }

    fn finds(&self, held: &dyn Fn(&str) -> Held) -> Result<bool, Refused> {
        for term in &self.0 {
            let value = term.values.first().map_or("", String::as_str);
            let finds = match held(&term.field) {
                Held::Nothing => {
                    return Err(Refused::invalid(format!(
                        "Invalid attribute {:?}: expected name, run_id, source_path, version_number or tags.KEY",
                        term.field
                    )));
                }
                Held::Number(number) => {
                    let value: u64 = value.parse().map_err(|_| Refused::invalid(format!("{value:?} is no number")))?;
                    term.holds(&number, &value)
                }
                // A tag that is not there is like nothing. Only for what tells its prompts from models, MLflow's clients ask
                // whether it is another one, and mean those too that do not have it.
                Held::Text(None) => term.way == Way::IsNot && term.field.ends_with(PROMPT),
                Held::Text(Some(text)) => match term.way {
                    Way::Like { any_case: false } => is_like(&text, value),
                    Way::Like { any_case: true } => is_like(&text.to_lowercase(), &value.to_lowercase()),
                    Way::In => term.values.contains(&text),
                    _ => term.holds(text.as_str(), value),
                },
            };
            if !finds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Term {
    fn holds<T: Ord + ?Sized>(&self, held: &T, value: &T) -> bool {
        match self.way {
            Way::Is(order) => held.cmp(value) == order,
            Way::IsNot => held != value,
            Way::AtLeast => held >= value,
            Way::AtMost => held <= value,
            Way::Like { .. } | Way::In => held == value,
        }
    }
}

/// Whether a text is like a pattern of SQL, in which `%` stands for anything and `_` for one letter.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut of, mut star) = (0, 0, None);
    while at < text.len() {
        match pattern.get(of) {
            Some('%') => {
                star = Some((of, at));
                of += 1;
            }
            Some(&letter) if letter == '_' || letter == text[at] => (at, of) = (at + 1, of + 1),
            // The last % takes one letter more.
            _ => match star {
                Some((of_star, at_star)) => {
                    star = Some((of_star, at_star + 1));
                    (at, of) = (at_star + 1, of_star + 1);
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|letter| *letter == '%')
}

enum Word {
    Bare(String),
    Quoted(String),
}

/// A filter's words, marks and quoted values.
fn words(text: &str) -> Result<Vec<Word>, &'static str> {
    let (mut words, mut letters) = (Vec::new(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            space if space.is_whitespace() => {}
            '\'' | '"' => {
                words.push(Word::Quoted(until(&mut letters, letter)?));
            }
            '(' | ')' | ',' => words.push(Word::Bare(letter.to_string())),
            '=' | '!' | '<' | '>' => {
                let mut mark = letter.to_string();
                if letters.peek() == Some(&'=') && letter != '=' {
                    mark.extend(letters.next());
                }
                words.push(Word::Bare(mark));
            }
            _ => {
                let mut word = letter.to_string();
                // Within a word, quotes stand around a tag's key: tags."my key".
                while let Some(&next) = letters.peek() {
                    match next {
                        '`' | '"' => {
                            letters.next();
                            word.push_str(&until(&mut letters, next)?);
                        }
                        '(' | ')' | ',' | '=' | '!' | '<' | '>' | '\'' => break,
                        space if space.is_whitespace() => break,
                        _ => word.extend(letters.next()),
                    }
                }
                words.push(Word::Bare(word));
            }
        }
    }
    Ok(words)
}

/// What stands before the quote that closes this one.
fn until(letters: &mut impl Iterator<Item = char>, quote: char) -> Result<String, &'static str> {
    let mut quoted = String::new();
    loop {
        match letters.next() {
            Some(letter) if letter == quote => return Ok(quoted),
            Some(letter) => quoted.push(letter),
            None => return Err("a quote is not closed"),
        }
    }
}
