//! Principals, tokens and rights.

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Client, Error, OWN, encode, project_path};

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Whoami {
    /// E-mail address, application id.
    pub name: String,
    /// `user` or `service_principal`.
    pub kind: String,
    /// What people see.
    pub display_name: String,
    /// Whether this is the owner of the server.
    pub is_owner: bool,
    /// Names of groups.
    pub groups: Vec<String>,
    /// What stands in the audit log.
    pub acting_as: String,
    /// What the credential may be used for.
    pub scopes: Vec<String>,
    /// Projects that the credential is confined to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
    /// Which credential it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
}

/// A principal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Principal {
    /// E-mail address, application id, or name of a group.
    pub name: String,
    /// `user`, `service_principal` or `group`.
    pub kind: String,
    /// What people see.
    pub display_name: String,
    /// Whether this is the owner of the server.
    pub is_owner: bool,
    /// Names of groups.
    pub groups: Vec<String>,
    /// When it was made (RFC 3339).
    pub create_time: String,
}

/// A personal token or client secret, as far as it may be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    /// Identity, for revoking it.
    pub id: String,
    /// `personal` or `client_secret`.
    pub kind: String,
    /// What its maker calls it.
    pub name: String,
    /// Whose it is.
    pub principal: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// Projects that it is confined to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
    /// When it was made.
    pub create_time: String,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<String>,
}

/// A new secret with what is known of it. Has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewSecret {
    /// The secret.
    pub token: String,
    /// Identity, for revoking it.
    pub id: String,
    /// Whose it is.
    pub principal: String,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<String>,
}

/// What is wanted of a new secret.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// Whether it is a client secret and not a personal token.
    pub client_secret: bool,
    /// What its maker calls it.
    pub name: String,
    /// For whom; for the caller where absent.
    pub principal: Option<String>,
    /// What it may be used for; everything where empty.
    pub scopes: Vec<String>,
    /// Projects that it is confined to; none means no such limit.
    pub projects: Vec<String>,
    /// Seconds that it lives; as usual where absent.
    pub seconds: Option<u64>,
    /// Whether it lives until it is revoked.
    pub no_expiry: bool,
}

/// Whose tokens stand for a principal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Federation {
    /// Identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Exact `iss` of the tokens.
    pub issuer: String,
    /// What their `aud` must contain.
    pub audience: String,
    /// How they may be signed.
    pub algorithms: Vec<String>,
    /// Where the issuer's keys are, if not found by discovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// What the claims must say, each `CLAIM=VALUE`.
    pub conditions: Vec<String>,
    /// Who they stand for.
    pub principal: String,
}

/// A right of a principal on a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Right {
    /// E-mail address, application id, name of a group.
    pub principal: String,
    /// `user`, `service_principal` or `group`.
    pub kind: String,
    /// What people see.
    pub display_name: String,
    /// `CAN_USE` or `CAN_MANAGE`.
    pub level: String,
}

/// A right as the vendor's permissions call has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AccessControl {
    user_name: Option<String>,
    group_name: Option<String>,
    service_principal_name: Option<String>,
    display_name: String,
    all_permissions: Vec<Level>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Level {
    permission_level: String,
}

impl From<AccessControl> for Right {
    fn from(entry: AccessControl) -> Right {
        let named = [
            ("user", entry.user_name),
            ("group", entry.group_name),
            ("service_principal", entry.service_principal_name),
        ];
        let holder = named.into_iter().find_map(|(kind, name)| Some((kind, name?)));
        let (kind, principal) = holder.unwrap_or_default();
        Right {
            principal,
            kind: kind.to_owned(),
            display_name: entry.display_name,
            level: entry.all_permissions.into_iter().next().unwrap_or_default().permission_level,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lists {
    principals: Vec<Principal>,
    tokens: Vec<Token>,
    federations: Vec<Federation>,
    access_control_list: Vec<AccessControl>,
}

impl Client {
    /// Who calls.
    ///
    /// # Errors
    /// As for every call.
    pub async fn whoami(&self) -> Result<Whoami, Error> {
        self.get(&format!("{OWN}/whoami")).await
    }

    /// All principals.
    ///
    /// # Errors
    /// As for every call.
    pub async fn principals(&self) -> Result<Vec<Principal>, Error> {
        Ok(self.get::<Lists>(&format!("{OWN}/principals")).await?.principals)
    }

    /// Makes a principal of a kind (`user`, `service_principal`, `group`).
    ///
    /// # Errors
    /// The name cannot be used, or as for every call.
    pub async fn create_principal(
        &self,
        name: &str,
        kind: &str,
        display_name: Option<&str>,
    ) -> Result<Principal, Error> {
        let body = json!({"name": name, "kind": kind, "display_name": display_name});
        self.call(Method::POST, &format!("{OWN}/principals"), Some(body)).await
    }

    /// Deletes a principal; its projects go to `heir`.
    ///
    /// # Errors
    /// It owns projects and there is no heir, or as for every call.
    pub async fn delete_principal(&self, name: &str, heir: Option<&str>) -> Result<(), Error> {
        let query = heir.map(|heir| format!("?reassign_to={}", encode(heir))).unwrap_or_default();
        self.done(Method::DELETE, &format!("{OWN}/principals/{}{query}", encode(name)), None).await
    }

    /// Puts a principal into a group, or takes it out.
    ///
    /// # Errors
    /// One of them does not exist, or as for every call.
    pub async fn set_member(&self, group: &str, member: &str, present: bool) -> Result<(), Error> {
        let method = if present { Method::PUT } else { Method::DELETE };
        self.done(method, &format!("{OWN}/groups/{}/members/{}", encode(group), encode(member)), None).await
    }

    /// Gives a principal a right on a project: `CAN_USE` or `CAN_MANAGE`.
    ///
    /// # Errors
    /// There is no such principal or project, or as for every call.
    pub async fn grant(&self, project: &str, principal: &str, level: &str) -> Result<(), Error> {
        let body = json!({"permission_level": level});
        self.done(Method::PUT, &permission_path(project, principal), Some(body)).await
    }

    /// Takes a principal's right on a project away.
    ///
    /// # Errors
    /// There was none, or as for every call.
    pub async fn revoke(&self, project: &str, principal: &str) -> Result<(), Error> {
        self.done(Method::DELETE, &permission_path(project, principal), None).await
    }

    /// Who has which right on a project, its owner first.
    ///
    /// # Errors
    /// There is no such project, or as for every call.
    pub async fn rights(&self, project: &str) -> Result<Vec<Right>, Error> {
        let path = format!("/api/2.0/permissions/database-projects/{}", encode(project));
        let all = self.get::<Lists>(&path).await?.access_control_list;
        Ok(all.into_iter().map(Right::from).collect())
    }

    /// Makes a personal token or client secret.
    ///
    /// # Errors
    /// The caller may not, or as for every call.
    pub async fn create_token(&self, new: &NewToken) -> Result<NewSecret, Error> {
        let mut body = json!({
            "kind": if new.client_secret { "client_secret" } else { "personal" },
            "name": new.name,
            "principal": new.principal,
            "scopes": new.scopes,
            "no_expiry": new.no_expiry,
        });
        if !new.projects.is_empty() {
            body["projects"] = json!(new.projects);
        }
        if let Some(seconds) = new.seconds {
            body["ttl"] = json!(format!("{seconds}s"));
        }
        self.call(Method::POST, &format!("{OWN}/tokens"), Some(body)).await
    }

    /// Tokens: the caller's own, or those of everybody.
    ///
    /// # Errors
    /// As for every call.
    pub async fn tokens(&self, everybody: bool) -> Result<Vec<Token>, Error> {
        Ok(self.get::<Lists>(&format!("{OWN}/tokens?all={everybody}")).await?.tokens)
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// There is none of that id, or as for every call.
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        self.done(Method::DELETE, &format!("{OWN}/tokens/{}", encode(id)), None).await
    }

    /// Foreign issuers.
    ///
    /// # Errors
    /// As for every call.
    pub async fn federations(&self) -> Result<Vec<Federation>, Error> {
        Ok(self.get::<Lists>(&format!("{OWN}/federations")).await?.federations)
    }

    /// Trusts a foreign issuer.
    ///
    /// # Errors
    /// The request is not sound, or as for every call.
    pub async fn create_federation(&self, new: &Federation) -> Result<Federation, Error> {
        let body = serde_json::to_value(new)
            .map_err(|error| Error::Protocol(format!("cannot write JSON: {error}")))?;
        self.call(Method::POST, &format!("{OWN}/federations"), Some(body)).await
    }

    /// Trusts a foreign issuer no longer.
    ///
    /// # Errors
    /// There is none of that id, or as for every call.
    pub async fn delete_federation(&self, id: &str) -> Result<(), Error> {
        self.done(Method::DELETE, &format!("{OWN}/federations/{}", encode(id)), None).await
    }

    /// Signs tokens with a new key from now on. Name of the key.
    ///
    /// # Errors
    /// As for every call.
    pub async fn rotate_signing_key(&self) -> Result<String, Error> {
        let answer: Value = self.call(Method::POST, &format!("{OWN}/signing-keys/rotate"), None).await?;
        Ok(answer["kid"].as_str().unwrap_or_default().to_owned())
    }

    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Result<(), Error> {
        self.call::<Value>(method, path, body).await.map(drop)
    }
}

fn permission_path(project: &str, principal: &str) -> String {
    // Of our own base: the vendor's call names a principal by its kind too.
    let own = project_path(project).replacen(crate::PG, OWN, 1);
    format!("{own}/permissions/{}", encode(principal))
}
