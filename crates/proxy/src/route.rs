//! Which endpoint a client means.

use crate::refusal::Refusal;

/// How an endpoint is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By its `uid`.
    Uid(String),
    /// By names, as people write them.
    Name {
        /// Identifier of the project.
        project: String,
        /// Identifier of the branch.
        branch: String,
        /// Identifier of the endpoint; the branch's first one where absent.
        endpoint: Option<String>,
    },
}

impl Selector {
    /// Reads `ep-…`, `PROJECT/BRANCH[/ENDPOINT]` or
    /// `projects/PROJECT/branches/BRANCH[/endpoints/ENDPOINT]`.
    pub fn parse(text: &str) -> Option<Selector> {
        let parts: Vec<&str> = text.split('/').collect();
        let name = |project: &str, branch: &str, endpoint: Option<&str>| {
            let all = [Some(project), Some(branch), endpoint];
            all.into_iter().flatten().all(is_id).then(|| Selector::Name {
                project: project.to_owned(),
                branch: branch.to_owned(),
                endpoint: endpoint.map(str::to_owned),
            })
        };
        match parts.as_slice() {
            [uid] => (uid.starts_with("ep-") && is_id(uid)).then(|| Selector::Uid((*uid).to_owned())),
            ["projects", project, "branches", branch] => name(project, branch, None),
            ["projects", project, "branches", branch, "endpoints", endpoint] => {
                name(project, branch, Some(endpoint))
            }
            [project, branch] => name(project, branch, None),
            [project, branch, endpoint] => name(project, branch, Some(endpoint)),
            _ => None,
        }
    }

    /// As it is shown to the client.
    pub fn text(&self) -> String {
        match self {
            Selector::Uid(uid) => uid.clone(),
            Selector::Name { project, branch, endpoint: None } => format!("{project}/{branch}"),
            Selector::Name { project, branch, endpoint: Some(endpoint) } => {
                format!("{project}/{branch}/{endpoint}")
            }
        }
    }
}

fn is_id(id: &str) -> bool {
    control::names::is_id(id)
}

/// All that a connection says about the endpoint before the login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// From the name that the client asked for in TLS.
    pub server_name: Option<String>,
    /// Whose own address was dialled.
    pub address: Option<String>,
    /// From `options=endpoint=…`.
    pub option: Option<Selector>,
}

impl Hints {
    /// The endpoint meant, and another way to name it that must turn out to mean the same. The server
    /// name counts before the address, and the address before the option.
    ///
    /// # Errors
    /// Two `uid`s differ.
    pub fn choose(&self) -> Result<(Option<Selector>, Option<Selector>), Refusal> {
        let option_uid = match &self.option {
            Some(Selector::Uid(uid)) => Some(uid),
            _ => None,
        };
        let mut uids = [self.server_name.as_ref(), self.address.as_ref(), option_uid].into_iter().flatten();
        let first = uids.next();
        if let Some(first) = first
            && let Some(other) = uids.find(|other| *other != first)
        {
            return Err(Refusal::conflict(first, other));
        }
        let by_name = self.option.clone().filter(|option| matches!(option, Selector::Name { .. }));
        match first {
            Some(uid) => Ok((Some(Selector::Uid(uid.clone())), by_name)),
            None => Ok((by_name, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(project: &str, branch: &str, endpoint: Option<&str>) -> Option<Selector> {
        Some(Selector::Name {
            project: project.into(),
            branch: branch.into(),
            endpoint: endpoint.map(Into::into),
        })
    }

    #[test]
    fn ways_to_write_an_endpoint() {
        assert_eq!(Selector::parse("ep-1"), Some(Selector::Uid("ep-1".into())));
        assert_eq!(Selector::parse("shop/dev"), named("shop", "dev", None));
        assert_eq!(Selector::parse("shop/dev/primary"), named("shop", "dev", Some("primary")));
        assert_eq!(Selector::parse("projects/shop/branches/dev"), named("shop", "dev", None));
        assert_eq!(
            Selector::parse("projects/shop/branches/dev/endpoints/primary"),
            named("shop", "dev", Some("primary"))
        );
        for bad in ["", "shop", "shop/", "/dev", "a/b/c/d", "Shop/dev", "shop/dev;x", "ep-1\n"] {
            assert_eq!(Selector::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn all_that_name_one_must_agree() {
        let hints = |name: Option<&str>, address: Option<&str>, option: Option<&str>| {
            Hints {
                server_name: name.map(Into::into),
                address: address.map(Into::into),
                option: option.and_then(Selector::parse),
            }
            .choose()
        };
        let uid = |uid: &str| Some(Selector::Uid(uid.into()));
        assert_eq!(hints(None, None, None), Ok((None, None)));
        assert_eq!(hints(Some("ep-1"), None, None), Ok((uid("ep-1"), None)));
        assert_eq!(hints(None, Some("ep-1"), Some("ep-1")), Ok((uid("ep-1"), None)));
        assert_eq!(hints(None, None, Some("ep-1")), Ok((uid("ep-1"), None)));
        assert_eq!(hints(None, None, Some("shop/dev")), Ok((named("shop", "dev", None), None)));
        assert_eq!(
            hints(None, Some("ep-1"), Some("shop/dev")),
            Ok((uid("ep-1"), named("shop", "dev", None)))
        );
        for (name, address, option) in [
            (Some("ep-1"), Some("ep-2"), None),
            (None, Some("ep-1"), Some("ep-2")),
            (Some("ep-1"), Some("ep-1"), Some("ep-2")),
        ] {
            assert!(hints(name, address, option).is_err());
        }
    }
}
