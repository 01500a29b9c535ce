//! Routes with what the OpenAPI document says of them, in one place: one cannot be without the other.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use crate::local::Local;

/// Routes and their description.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<Local>,
    calls: Vec<Call>,
}

/// One method of one path, as documented.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// In lower case.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: String,
    /// Name of the call; for calls of the contract that of the SDK's method.
    pub id: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Parameters of the query.
    pub query: Vec<Parameter>,
    /// Schema of the request's body.
    pub body: Option<&'static str>,
    /// Media type of the request's body.
    pub body_media: &'static str,
    /// Schema of the answer.
    pub answer: &'static str,
    /// Media type of the answer.
    pub media: &'static str,
}

/// A parameter of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    /// One line.
    pub summary: &'static str,
}

const JSON: &str = "application/json";

/// Describes a call.
pub(crate) fn call(id: &'static str, path: impl Into<String>, summary: &'static str) -> Call {
    Call {
        method: "",
        path: path.into(),
        id,
        summary,
        query: Vec::new(),
        body: None,
        body_media: JSON,
        answer: "Empty",
        media: JSON,
    }
}

impl Call {
    /// With a parameter in the query.
    pub fn query(mut self, name: &'static str, kind: &'static str, summary: &'static str) -> Call {
        self.query.push(Parameter { name, kind, summary });
        self
    }

    /// With the parameters of a list.
    pub fn paged(self) -> Call {
        self.query("page_size", "integer", "Most items on a page; at most 100, which is also the default")
            .query("page_token", "string", "`next_page_token` of the page before")
    }

    /// With a mask of the fields to change.
    pub fn masked(self) -> Call {
        self.query("update_mask", "string", "Fields to change, joined by commas; empty: all that are given")
    }

    /// With a body.
    pub fn body(self, schema: &'static str) -> Call {
        Call { body: Some(schema), ..self }
    }

    /// With a form as its body.
    pub fn form(self, schema: &'static str) -> Call {
        Call { body: Some(schema), body_media: "application/x-www-form-urlencoded", ..self }
    }

    /// With an answer.
    pub fn answers(self, schema: &'static str) -> Call {
        Call { answer: schema, ..self }
    }

    /// With an answer of another media type than JSON.
    pub fn media(self, media: &'static str) -> Call {
        Call { media, ..self }
    }
}

impl Routes {
    /// None yet.
    pub fn new() -> Routes {
        Routes::default()
    }

    pub fn get<H: Handler<T, Local>, T: 'static>(self, call: Call, handler: H) -> Routes {
        self.add("get", call, get(handler))
    }

    pub fn post<H: Handler<T, Local>, T: 'static>(self, call: Call, handler: H) -> Routes {
        self.add("post", call, post(handler))
    }

    pub fn put<H: Handler<T, Local>, T: 'static>(self, call: Call, handler: H) -> Routes {
        self.add("put", call, put(handler))
    }

    pub fn patch<H: Handler<T, Local>, T: 'static>(self, call: Call, handler: H) -> Routes {
        self.add("patch", call, patch(handler))
    }

    pub fn delete<H: Handler<T, Local>, T: 'static>(self, call: Call, handler: H) -> Routes {
        self.add("delete", call, delete(handler))
    }

    fn add(mut self, method: &'static str, call: Call, handler: MethodRouter<Local>) -> Routes {
        let router = self.router.route(&call.path, handler);
        self.calls.push(Call { method, ..call });
        Routes { router, calls: self.calls }
    }

    /// The routes of both.
    pub fn merge(mut self, other: Routes) -> Routes {
        self.calls.extend(other.calls);
        Routes { router: self.router.merge(other.router), calls: self.calls }
    }

    /// With routes that are no part of the document: those that only say what is missing.
    pub fn undocumented(self, router: Router<Local>) -> Routes {
        Routes { router: self.router.merge(router), ..self }
    }

    /// What the document says.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// What answers.
    pub fn into_router(self) -> Router<Local> {
        self.router
    }
}
