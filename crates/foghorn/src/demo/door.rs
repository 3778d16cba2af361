//! What the demo answers itself: its page, built from `clients/demo` (`cargo xtask client` compares) and embedded, and
//! its page's buttons.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use foghorn_auth::{Authenticator, Caller, Refusal};
use foghorn_http::body::full;
use foghorn_http::problem::Problem;
use foghorn_http::{Handler, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;

use super::application::Application;
use super::passes::{Passes, USER_LIFE};
use crate::page::{HTML, SCRIPT, STYLE, asset};

/// Answers for the page. Who asks has been checked to be no page of another origin.
pub(crate) struct Door {
    application: Arc<Application>,
    passes: Arc<Passes>,
    auth: Arc<Authenticator>,
    /// The cookie that the page's user is known by.
    cookie: String,
}

impl Door {
    pub(super) fn new(
        application: Arc<Application>,
        passes: Arc<Passes>,
        auth: Arc<Authenticator>,
        cookie: String,
    ) -> Self {
        Door { application, passes, auth, cookie }
    }

    /// Whether a path is the demo's.
    pub(crate) fn has(path: &str) -> bool {
        path == "/" || path.starts_with("/demo/")
    }

    async fn answer(&self, request: &Parts) -> Result<Response, Problem> {
        let path = request.uri.path();
        let is_read = matches!(request.method, Method::GET | Method::HEAD);
        if let Some(file) = file(path) {
            return if is_read { Ok(file) } else { Err(Problem::method("GET")) };
        }
        let asked = Button::at(path).ok_or_else(|| Problem::not_found(path))?;
        if request.method != Method::POST {
            return Err(Problem::method("POST"));
        }
        match asked {
            Button::Session => self.known_from_now_on(),
            Button::Job => {
                self.check_user(&request.headers).await?;
                self.application.begin_job();
                Ok(empty(StatusCode::ACCEPTED))
            }
            Button::Notification => {
                self.check_user(&request.headers).await?;
                if !self.application.notify().await {
                    return Err(Problem::internal("the demo's notification could not be sent"));
                }
                Ok(empty(StatusCode::ACCEPTED))
            }
        }
    }

    /// A cookie that scripts can't read, and that no page of another site has sent.
    fn known_from_now_on(&self) -> Result<Response, Problem> {
        let token = self.passes.user().map_err(Problem::internal)?;
        let cookie = format!(
            "{}={token}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict",
            self.cookie,
            USER_LIFE.as_secs()
        );
        let mut response = empty(StatusCode::NO_CONTENT);
        let cookie = HeaderValue::from_str(&cookie).map_err(Problem::internal)?;
        response.headers_mut().insert(header::SET_COOKIE, cookie);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn check_user(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.auth.patiently(|| self.auth.caller(headers, None)).await {
            Ok(Caller::Known(_)) => Ok(()),
            Ok(_) => Err(Refusal::NoCredential("the demo".to_owned()).to_problem()),
            Err(refusal) => Err(refusal.to_problem()),
        }
    }
}

impl Handler for Door {
    fn handle(
        &self,
        request: Request<Incoming>,
        _peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        // What the buttons ask for has no body; one that comes all the same isn't read.
        let (request, _) = request.into_parts();
        Box::pin(async move { self.answer(&request).await.unwrap_or_else(Problem::into_response) })
    }
}

/// What the page can ask for.
enum Button {
    /// To be known as the demo's user: what an application's login does.
    Session,
    Job,
    Notification,
}

impl Button {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/demo/session" => Button::Session,
            "/demo/job" => Button::Job,
            "/demo/notification" => Button::Notification,
            _ => return None,
        })
    }
}

fn file(path: &str) -> Option<Response> {
    Some(match path {
        "/" => asset(HTML, include_str!("../../assets/demo/index.html")),
        "/demo/demo.js" => asset(SCRIPT, include_str!("../../assets/demo/demo.js")),
        "/demo/demo.css" => asset(STYLE, include_str!("../../assets/demo/demo.css")),
        _ => return None,
    })
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}
