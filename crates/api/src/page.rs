//! Lists in pages.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use control::names::short_hash;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Longest page.
const MAX_PAGE: usize = 100;

/// The part of a query that asks for one page.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct PageQuery {
    pub page_size: Option<i64>,
    pub page_token: Option<String>,
    #[serde(default)]
    pub show_deleted: bool,
    /// What is listed: tokens of one list mean nothing in another.
    #[serde(skip)]
    pub scope: String,
}

impl PageQuery {
    /// The place that the page begins after, and its greatest length.
    pub fn bounds(&self, key: &str) -> Result<(Option<Place>, usize), ApiError> {
        let size = match self.page_size.unwrap_or(0) {
            0 => MAX_PAGE,
            asked if asked > 0 => usize::try_from(asked).unwrap_or(MAX_PAGE).min(MAX_PAGE),
            asked => {
                return Err(ApiError::invalid(format!(
                    "Field 'page_size' must not be negative, got {asked}."
                )));
            }
        };
        let token = self.page_token.as_deref().filter(|token| !token.is_empty());
        Ok((token.map(|token| parse_token(token, self.list(key))).transpose()?, size))
    }

    /// Which list this is a page of.
    fn list(&self, key: &str) -> u32 {
        short_hash(format!("{key} {} {}", self.show_deleted, self.scope).as_bytes())
    }
}

/// The page asked for, of the list at the request's path.
pub(crate) struct Paged(pub PageQuery);

impl<S: Sync> FromRequestParts<S> for Paged {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Paged, ApiError> {
        let Query(query) = Query::<PageQuery>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid(error.body_text()))?;
        Ok(Paged(PageQuery { scope: parts.uri.path().to_owned(), ..query }))
    }
}

/// A place in a list that stays right while others come and go: lists are in order of creation.
pub(crate) type Place = (Timestamp, String);

/// One page of `items` under `key`, and the token of the next.
pub(crate) fn page<T>(
    key: &str,
    items: Vec<T>,
    query: &PageQuery,
    place: impl Fn(&T) -> Place,
    render: impl Fn(&T) -> Value,
) -> Result<Value, ApiError> {
    let (after, size) = query.bounds(key)?;
    let mut rest = items.iter().filter(|item| after.as_ref().is_none_or(|after| place(item) > *after));
    let shown: Vec<&T> = rest.by_ref().take(size).collect();
    let mut body = Map::new();
    body.insert(key.to_owned(), shown.iter().map(|item| render(item)).collect());
    if let (Some(last), Some(_)) = (shown.last(), rest.next()) {
        let (time, uid) = place(last);
        body.insert(
            "next_page_token".to_owned(),
            format!("{:08x}.{}.{uid}", query.list(key), time.as_microsecond()).into(),
        );
    }
    Ok(Value::Object(body))
}

fn parse_token(token: &str, scope: u32) -> Result<Place, ApiError> {
    let parsed = token.split_once('.').and_then(|(of, place)| {
        if u32::from_str_radix(of, 16) != Ok(scope) {
            return None;
        }
        let (micros, uid) = place.split_once('.')?;
        let time = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
        Some((time, uid.to_owned()))
    });
    parsed.ok_or_else(|| ApiError::invalid("Field 'page_token' is not a token of this list."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(size: Option<i64>, token: Option<&str>) -> Result<Value, ApiError> {
        ask_in("/a", size, token)
    }

    fn ask_in(scope: &str, size: Option<i64>, token: Option<&str>) -> Result<Value, ApiError> {
        let query = PageQuery {
            page_size: size,
            page_token: token.map(str::to_owned),
            show_deleted: false,
            scope: scope.to_owned(),
        };
        let place = |item: &i64| (Timestamp::from_second(*item).unwrap(), format!("u{item}"));
        page("items", (0..5).collect(), &query, place, |item| Value::from(*item))
    }

    #[test]
    fn pages_cover_all_exactly_once() {
        let mut seen = Vec::new();
        let mut token: Option<String> = None;
        let mut rounds = 0;
        loop {
            let body = ask(Some(2), token.as_deref()).unwrap();
            seen.extend(body["items"].as_array().unwrap().iter().map(|item| item.as_i64().unwrap()));
            rounds += 1;
            match body.get("next_page_token") {
                Some(next) => token = Some(next.as_str().unwrap().to_owned()),
                None => break,
            }
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(rounds, 3);
    }

    #[test]
    fn a_full_last_page_has_no_next() {
        assert_eq!(ask(Some(5), None).unwrap().get("next_page_token"), None);
        assert_eq!(ask(None, Some("")).unwrap()["items"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(ask(Some(-1), None).is_err());
        for token in ["x", "1.2", "00000000.1.u1", "1.2.3"] {
            assert!(ask(None, Some(token)).is_err(), "{token}");
        }
    }

    #[test]
    fn a_token_belongs_to_its_list() {
        let body = ask_in("/a", Some(2), None).unwrap();
        let token = body["next_page_token"].as_str();
        assert!(ask_in("/a", Some(3), token).is_ok(), "the size of pages may change on the way");
        assert!(ask_in("/b", Some(2), token).is_err());
    }

    #[test]
    fn pages_have_a_greatest_length() {
        let query = PageQuery { page_size: Some(1_000_000), ..PageQuery::default() };
        let place = |item: &i64| (Timestamp::from_second(*item).unwrap(), format!("u{item}"));
        let body = page("items", (0..150).collect(), &query, place, |item| Value::from(*item)).unwrap();
        assert_eq!(body["items"].as_array().unwrap().len(), MAX_PAGE);
        assert!(body.get("next_page_token").is_some());
    }
}
