//! Shapes around logins and rights: principals, tokens, permissions, the token endpoint.

use serde_json::{Value, json};

use super::{duration, flag, integer, list, object, one_of, reference, text, time};

const KINDS: [&str; 3] = ["user", "service_principal", "group"];
const TOKEN_KINDS: [&str; 2] = ["personal", "client_secret"];
const LEVELS: [&str; 2] = ["CAN_USE", "CAN_MANAGE"];

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let parts = [permissions(), principals(), tokens(), federations(), callers(), oidc()];
    parts.into_iter().flatten().collect()
}

fn scopes() -> Value {
    list(one_of(&auth::Scope::ALL.map(auth::Scope::as_str)))
}

fn permissions() -> Vec<(&'static str, Value)> {
    let holder = || {
        [
            ("user_name", text("A user; one of three")),
            ("group_name", text("A group; one of three")),
            ("service_principal_name", text("Application id of a service principal; one of three")),
        ]
    };
    let [user, group, service] = holder();
    let [shown_user, shown_group, shown_service] = holder();
    vec![
        ("PermissionsRequest", object([("access_control_list", list(reference("AccessRequest")))])),
        ("AccessRequest", object([user, group, service, ("permission_level", one_of(&LEVELS))])),
        ("GrantRequest", object([("permission_level", one_of(&LEVELS))])),
        (
            "Permissions",
            object([
                ("object_id", text("/database-projects/{project_id}")),
                ("object_type", one_of(&["database-projects"])),
                ("access_control_list", list(reference("Access"))),
            ]),
        ),
        (
            "Access",
            object([
                shown_user,
                shown_group,
                shown_service,
                ("display_name", text("What people see")),
                (
                    "all_permissions",
                    list(object([
                        ("inherited", flag("Always false")),
                        ("permission_level", one_of(&LEVELS)),
                    ])),
                ),
            ]),
        ),
        (
            "PermissionLevels",
            object([(
                "permission_levels",
                list(object([
                    ("permission_level", one_of(&LEVELS)),
                    ("description", text("What it lets one do")),
                ])),
            )]),
        ),
    ]
}

fn principals() -> Vec<(&'static str, Value)> {
    vec![
        (
            "NewPrincipal",
            object([
                (
                    "name",
                    text("E-mail address of a user, name of a group, what a service principal is called"),
                ),
                ("kind", one_of(&KINDS)),
                ("display_name", text("What people see; the name where absent")),
            ]),
        ),
        (
            "Principal",
            object([
                ("name", text("Its name, also that of its role; an application id for service principals")),
                ("kind", one_of(&KINDS)),
                ("display_name", text("What people see")),
                ("is_owner", flag("Whether it owns the home")),
                ("groups", list(text("Name of a group that it is in"))),
                ("create_time", time("When it was made")),
            ]),
        ),
        ("PrincipalList", object([("principals", list(reference("Principal")))])),
        ("SigningKey", object([("kid", text("Name of the new key"))])),
    ]
}

fn tokens() -> Vec<(&'static str, Value)> {
    vec![
        (
            "NewToken",
            object([
                ("kind", one_of(&TOKEN_KINDS)),
                ("name", text("What it is for")),
                ("principal", text("Whose; the caller's where absent")),
                ("scopes", scopes()),
                ("projects", list(text("Identifier of a project; absent: all"))),
                ("ttl", duration("How long it is good; 90 days where absent; one of two")),
                ("no_expiry", flag("Good until it is revoked; one of two")),
            ]),
        ),
        (
            "Token",
            object([
                ("id", text("Names it for revocation")),
                ("kind", one_of(&TOKEN_KINDS)),
                ("name", text("What it is for")),
                ("principal", text("Whose")),
                ("scopes", scopes()),
                ("projects", list(text("Identifier of a project"))),
                ("create_time", time("When it was made")),
                ("expire_time", time("Until when it is good; absent: until revoked")),
                ("token", text("The secret; only in the answer that makes it")),
            ]),
        ),
        ("TokenList", object([("tokens", list(reference("Token")))])),
    ]
}

fn federations() -> Vec<(&'static str, Value)> {
    let fields = || {
        [
            ("issuer", text("Address of the issuer, as in `iss`")),
            ("audience", text("What `aud` must be")),
            ("algorithms", list(text("E.g. RS256"))),
            ("jwks_uri", text("Where its keys are; found through discovery where absent")),
            ("conditions", list(text("claim=value; a `*` at the end stands for any rest"))),
            ("principal", text("Whom its tokens stand for")),
        ]
    };
    let [issuer, audience, algorithms, jwks_uri, conditions, principal] = fields();
    let made = [("id", text("Names it for deletion")), ("create_time", time("When it was made"))];
    let [id, create_time] = made;
    vec![
        ("NewFederation", object(fields())),
        (
            "Federation",
            object([id, issuer, audience, algorithms, jwks_uri, conditions, principal, create_time]),
        ),
        ("FederationList", object([("federations", list(reference("Federation")))])),
    ]
}

fn callers() -> Vec<(&'static str, Value)> {
    vec![
        ("Version", object([("version", text("Version of the daemon"))])),
        (
            "ScimUser",
            object([
                ("schemas", list(text("Name of a SCIM schema"))),
                ("id", text("Identity for ever")),
                ("userName", text("Its name, also that of its role")),
                ("displayName", text("What people see")),
                ("active", flag("Always true")),
                (
                    "emails",
                    list(object([
                        ("value", text("Address")),
                        ("type", one_of(&["work"])),
                        ("primary", flag("Always true")),
                    ])),
                ),
                ("groups", list(object([("display", text("Name of a group")), ("value", text("The same"))]))),
            ]),
        ),
        (
            "Whoami",
            object([
                ("name", text("Name of the principal")),
                ("kind", one_of(&KINDS)),
                ("display_name", text("What people see")),
                ("is_owner", flag("Whether it owns the home")),
                ("groups", list(text("Name of a group"))),
                ("acting_as", text("What the audit log calls the caller")),
                ("scopes", scopes()),
                ("projects", list(text("Identifier of a project that the token is good for; absent: all"))),
                ("token_id", text("Id of the token")),
            ]),
        ),
        (
            "TelemetryRequest",
            object([
                ("protoLogs", list(json!({"description": "Anything"}))),
                ("items", list(json!({"description": "Anything"}))),
            ]),
        ),
        (
            "TelemetryResponse",
            object([
                ("errors", list(text("None"))),
                ("numProtoSuccess", integer("How many arrived")),
                ("numSuccess", integer("How many arrived")),
            ]),
        ),
    ]
}

fn oidc() -> Vec<(&'static str, Value)> {
    vec![
        (
            "DatabricksConfig",
            object([
                ("oidc_endpoint", text("Base of the token endpoint")),
                ("workspace_id", text("A number of this home, as text")),
            ]),
        ),
        (
            "AuthorizationServer",
            object([
                ("issuer", text("What our tokens say in `iss`")),
                ("authorization_endpoint", text("Address")),
                ("token_endpoint", text("Address")),
                ("jwks_uri", text("Address")),
                ("grant_types_supported", list(text("Name"))),
                ("code_challenge_methods_supported", list(text("Name"))),
                ("token_endpoint_auth_methods_supported", list(text("Name"))),
                ("scopes_supported", scopes()),
                ("response_types_supported", list(text("Name"))),
                ("subject_types_supported", list(text("Name"))),
                ("id_token_signing_alg_values_supported", list(text("Name"))),
            ]),
        ),
        ("Jwks", object([("keys", list(json!({"type": "object", "description": "A JWK (RFC 7517)"})))])),
        ("Page", json!({"type": "string", "description": "HTML"})),
        (
            "AuthorizeForm",
            object([
                ("response_type", one_of(&["code"])),
                ("client_id", text("As in the page's address")),
                ("redirect_uri", text("As in the page's address")),
                ("code_challenge", text("As in the page's address")),
                ("code_challenge_method", one_of(&["S256"])),
                ("scope", text("As in the page's address")),
                ("state", text("As in the page's address")),
                ("token", text("A personal token without limits, of whoever lets the program log in")),
            ]),
        ),
        (
            "TokenRequest",
            object([
                (
                    "grant_type",
                    one_of(&[
                        "authorization_code",
                        "refresh_token",
                        "client_credentials",
                        "urn:ietf:params:oauth:grant-type:token-exchange",
                    ]),
                ),
                ("scope", text("Words of `scopes_supported`, joined by blanks; all-apis where absent")),
                ("client_id", text("Of a service principal, unless HTTP Basic has it")),
                ("client_secret", text("Of a service principal, unless HTTP Basic has it")),
                ("code", text("What the page of the browser led to")),
                ("redirect_uri", text("As it was when the code was asked for")),
                ("code_verifier", text("The secret behind the challenge (RFC 7636)")),
                ("refresh_token", text("What came with the access token before")),
                ("subject_token", text("The foreign token to exchange")),
                ("subject_token_type", text("urn:ietf:params:oauth:token-type:jwt or …:id_token")),
            ]),
        ),
        (
            "TokenResponse",
            object([
                ("access_token", text("For `Authorization: Bearer`")),
                ("token_type", one_of(&["Bearer"])),
                ("expires_in", integer("Seconds")),
                ("scope", text("What it is good for")),
                ("issued_token_type", text("In the answer to an exchange")),
                ("refresh_token", text("After a login in a browser: a personal token that renews it")),
            ]),
        ),
    ]
}
