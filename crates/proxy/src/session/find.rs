//! Which endpoint a connection gets to.

use super::{End, Visit};
use crate::Proxy;
use crate::gatekeeper::{Gatekeeper, Route, TokenIdentity};
use crate::options;
use crate::refusal::{Refusal, sqlstate};
use crate::route::{Hints, Selector};
use crate::startup::Startup;

impl<G: Gatekeeper> Proxy<G> {
    /// The endpoint that a connection names; none where it names none.
    pub(super) async fn find(&self, hints: &Hints) -> Result<Result<Option<Route>, Refusal>, End> {
        let (first, second) = match hints.choose() {
            Ok(chosen) => chosen,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(first) = first else { return Ok(Ok(None)) };
        let Some(route) = self.gatekeeper.route(&first).await? else {
            return Ok(Err(Refusal::unknown_endpoint(&first.text())));
        };
        if let Some(second) = second
            && self.gatekeeper.route(&second).await?.is_none_or(|other| other.endpoint != route.endpoint)
        {
            return Ok(Err(Refusal::conflict(&route.endpoint, &second.text())));
        }
        Ok(Ok(Some(route)))
    }

    /// The endpoint that the holder of a token gets to; none if it may not.
    pub(super) async fn route_for(
        &self,
        visit: &Visit,
        identity: &TokenIdentity,
    ) -> Result<Option<Route>, End> {
        let route = match (&visit.route, &identity.endpoint) {
            (Err(refusal), _) => return Err(refusal.clone().into()),
            (Ok(Some(route)), _) => route.clone(),
            (Ok(None), Some(uid)) => {
                let route = self.gatekeeper.route(&Selector::Uid(uid.clone())).await?;
                route.ok_or_else(|| Refusal::unknown_endpoint(uid))?
            }
            (Ok(None), None) => return Err(Refusal::no_endpoint().into()),
        };
        let elsewhere = identity.endpoint.as_ref().is_some_and(|uid| *uid != route.endpoint);
        let may = !elsewhere && self.gatekeeper.may_use(identity, &route).await?;
        Ok(may.then_some(route))
    }
}

/// Takes our option out of the start-up packet.
pub(super) fn take_option(startup: &mut Startup) -> Result<Option<Selector>, Refusal> {
    let Some(options) = startup.get("options") else { return Ok(None) };
    let (endpoint, rest) = options::take_endpoint(options).map_err(|error| {
        Refusal::new(sqlstate::CONNECTION_REJECTED, error.to_string())
            .with_hint("write options=endpoint=PROJECT/BRANCH, once")
    })?;
    let Some(endpoint) = endpoint else { return Ok(None) };
    if rest.is_empty() {
        startup.remove("options");
    } else {
        startup.set(b"options", &rest);
    }
    let selector = Selector::parse(&endpoint).ok_or_else(|| {
        Refusal::new(sqlstate::CONNECTION_REJECTED, format!("\"{endpoint}\" names no endpoint"))
            .with_hint("write options=endpoint=PROJECT/BRANCH, or endpoint=ep-… as the endpoint's uid says")
    })?;
    Ok(Some(selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_option_does_not_reach_the_server() {
        let mut startup = Startup::default();
        startup.set(b"options", b"-c endpoint=ep-1");
        assert_eq!(take_option(&mut startup), Ok(Some(Selector::Uid("ep-1".into()))));
        assert_eq!(startup.get("options"), None);
        startup.set(b"options", b"-c geqo=off endpoint=shop/dev");
        assert!(take_option(&mut startup).unwrap().is_some());
        assert_eq!(startup.get("options"), Some(b"-c geqo=off".as_slice()));
        startup.set(b"options", b"endpoint=Shop");
        assert_eq!(take_option(&mut startup).unwrap_err().sqlstate, "08004");
    }
}
