//! How a connection ends that gets no session, and what its client is told.

use std::time::{Duration, Instant};

use super::Visit;
use crate::Proxy;
use crate::gatekeeper::{ConnectError, Gatekeeper, Route, Trouble};
use crate::login::LoginError;
use crate::refusal::{Refusal, sqlstate};
use crate::wire;

/// No refused login is answered sooner than this after it was tried, so that the time says nothing
/// about the reason.
const REFUSAL_FLOOR: Duration = Duration::from_millis(250);

/// As much once there were too many of them.
pub(super) const THROTTLED_FLOOR: Duration = Duration::from_secs(2);

/// Why there is no session.
pub(super) enum End {
    /// The client is to be told.
    Refused(Refusal),
    /// The client is to be told what the server said: the body of its error message.
    Quoted(Vec<u8>),
    /// There is nobody to tell.
    Gone,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Gone
    }
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> End {
        tracing::error!(%trouble, "a login was not possible");
        End::Refused(Refusal::internal())
    }
}

impl<G: Gatekeeper> Proxy<G> {
    /// Notes a login that went wrong; gives the answer to it when it is time.
    pub(super) async fn failed(&self, visit: &Visit, tried: Instant) -> End {
        let wait = self.throttle.wait(visit.source, &visit.user, tried);
        self.throttle.failed(visit.source, &visit.user, tried);
        tracing::info!(source = %visit.source, role = ?visit.user, "a login failed");
        let (floor, refusal) = match wait {
            Some(seconds) => (THROTTLED_FLOOR, Refusal::login_throttled(&visit.user, seconds)),
            None => (REFUSAL_FLOOR, Refusal::login_failed(&visit.user)),
        };
        tokio::time::sleep_until((tried + floor).into()).await;
        refusal.into()
    }
}

/// What a client is told of a login on the server that went wrong.
pub(super) fn quote(error: LoginError, route: &Route) -> End {
    match error {
        LoginError::Refused(body) if wire::error_field(&body, b'C') != Some(sqlstate::INVALID_PASSWORD) => {
            End::Quoted(body)
        }
        LoginError::Client(_) => End::Gone,
        other => {
            tracing::error!(
                branch = route.branch,
                reason = other.describe(),
                "the server does not let the daemon in"
            );
            Refusal::internal().into()
        }
    }
}

pub(super) fn timed_out() -> Refusal {
    Refusal::new(sqlstate::TIMEOUT, "canceling authentication due to timeout")
}

pub(super) fn unreachable(error: ConnectError, route: &Route) -> Refusal {
    let name = &route.name;
    match error {
        // Not one of those that clients try again.
        ConnectError::Disabled => {
            Refusal::new(sqlstate::NOT_IN_STATE, format!("the endpoint of branch \"{name}\" is disabled"))
                .with_hint("enable it first")
        }
        ConnectError::Gone => {
            Refusal::new(sqlstate::ADMIN_SHUTDOWN, format!("branch \"{name}\" was deleted"))
                .with_hint("`ana branch undelete` may bring it back")
        }
        ConnectError::TooManyWaiting => Refusal::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("branch \"{name}\" cannot be reached: this host has no room for it, others are in use"),
        )
        .with_hint("try again later, close connections of other branches, or give ana serve more --memory"),
        ConnectError::CannotStart(reason) => Refusal::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("branch \"{name}\" cannot be reached: {reason}"),
        )
        .with_hint("the branch's log and `ana status` say more"),
    }
}
