//! Which handler answers which method and path. The table is built once; finding a route allocates nothing.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use hyper::Method;
use hyper::header::HeaderValue;

use super::error::ApiError;
use super::request::Request;
use super::response::Response;

/// The most parameters that a path may have.
const MAX_PARAMS: usize = 4;

pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;
type Handler = Box<dyn Fn(Request) -> Answer + Send + Sync>;

/// Handlers by method and path, with the state that they are given.
///
/// A path's parameters stand in braces. `GET` answers `HEAD` too; `OPTIONS`, 404 and 405 need no handler.
/// ```
/// use millstream::serve::{ApiError, Request, Response, Routes, StatusCode};
///
/// async fn greet(greeting: &'static str, request: Request) -> Result<Response, ApiError> {
///     let user = request.param_id("userId")?;
///     Response::json(StatusCode::OK, &format!("{greeting}, {user}"))
/// }
///
/// let routes = Routes::new("hello").get("/api/users/{userId}/greeting", greet);
/// ```
pub struct Routes<S = ()> {
    state: S,
    entries: Vec<(Method, String, Handler)>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes yet; each handler will be given a clone of `state`.
    pub fn new(state: S) -> Routes<S> {
        Routes { state, entries: Vec::new() }
    }

    /// Answers `GET` and `HEAD`.
    #[must_use]
    pub fn get<F>(self, path: &str, handler: impl Fn(S, Request) -> F + Send + Sync + 'static) -> Routes<S>
    where
        F: Future<Output = Result<Response, ApiError>> + Send + 'static,
    {
        self.on(Method::GET, path, handler)
    }

    /// Answers `POST`.
    #[must_use]
    pub fn post<F>(self, path: &str, handler: impl Fn(S, Request) -> F + Send + Sync + 'static) -> Routes<S>
    where
        F: Future<Output = Result<Response, ApiError>> + Send + 'static,
    {
        self.on(Method::POST, path, handler)
    }

    /// Answers a method.
    #[must_use]
    pub fn on<F>(mut self, method: Method, path: &str, handler: impl Fn(S, Request) -> F + Send + Sync + 'static) -> Routes<S>
    where
        F: Future<Output = Result<Response, ApiError>> + Send + 'static,
    {
        let state = self.state.clone();
        let handler: Handler = Box::new(move |request| Box::pin(handler(state.clone(), request)));
        self.entries.push((method, path.to_owned(), handler));
        self
    }

    /// These routes and those.
    #[must_use]
    pub fn merge<T>(mut self, other: Routes<T>) -> Routes<S> {
        self.entries.extend(other.entries);
        self
    }
}

/// What answers one path.
pub(super) struct Route {
    pub(super) pattern: String,
    pub(super) params: Vec<String>,
    pub(super) allow: HeaderValue,
    handlers: Vec<(Method, Handler)>,
}

impl Route {
    /// The handler of a method.
    pub(super) fn handler(&self, method: &Method) -> Option<&Handler> {
        let exact = self.handlers.iter().find(|(known, _)| known == method);
        let found = exact.or_else(|| self.handlers.iter().find(|(known, _)| *method == Method::HEAD && *known == Method::GET));
        found.map(|(_, handler)| handler)
    }
}

/// Where the parameters of a path lie in it.
#[derive(Clone, Copy, Default)]
pub(super) struct Params([(u32, u32); MAX_PARAMS]);

impl Params {
    pub(super) fn range(&self, at: usize) -> Range<usize> {
        let (from, to) = self.0[at];
        from as usize..to as usize
    }
}

#[derive(Default)]
pub(super) struct Table {
    router: matchit::Router<Arc<Route>>,
}

impl Table {
    /// # Panics
    /// If two routes contradict each other or a path is malformed: a programming error.
    pub(super) fn new<S>(routes: Routes<S>) -> Table {
        let mut by_path: Vec<(String, Vec<(Method, Handler)>)> = Vec::new();
        for (method, path, handler) in routes.entries {
            let at = by_path.iter().position(|(known, _)| *known == path).unwrap_or_else(|| {
                by_path.push((path.clone(), Vec::new()));
                by_path.len() - 1
            });
            let handlers = &mut by_path[at].1;
            assert!(handlers.iter().all(|(known, _)| *known != method), "two routes answer {method} {path}");
            handlers.push((method, handler));
        }
        let mut table = Table::default();
        for (pattern, handlers) in by_path {
            let names = pattern.split('{').skip(1).filter_map(|part| part.split('}').next());
            let params: Vec<String> = names.map(|name| name.trim_start_matches('*').to_owned()).collect();
            assert!(params.len() <= MAX_PARAMS, "the route {pattern:?} has more than {MAX_PARAMS} parameters");
            let mut allow: Vec<&str> = handlers.iter().map(|(method, _)| method.as_str()).collect();
            if allow.contains(&"GET") && !allow.contains(&"HEAD") {
                allow.push("HEAD");
            }
            allow.push("OPTIONS");
            let allow = HeaderValue::from_str(&allow.join(", ")).expect("methods are tokens");
            let route = Arc::new(Route { pattern: pattern.clone(), params, allow, handlers });
            table.router.insert(pattern.clone(), route).unwrap_or_else(|error| panic!("the route {pattern:?}: {error}"));
        }
        table
    }

    pub(super) fn find(&self, path: &str) -> Option<(Arc<Route>, Params)> {
        let found = self.router.at(path).ok()?;
        let mut params = Params::default();
        for (slot, (_, value)) in params.0.iter_mut().zip(found.params.iter()) {
            // A head, and so a path, is far below 4 GiB; the value is a piece of the path.
            let from = (value.as_ptr() as usize - path.as_ptr() as usize) as u32;
            *slot = (from, from + value.len() as u32);
        }
        Some((Arc::clone(found.value), params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_routes() {
        let ok = |(), _| async { Ok(Response::empty(hyper::StatusCode::OK)) };
        let routes = Routes::new(()).get("/views", ok).get("/views/{store}/{key}", ok).post("/views/{store}/{key}", ok);
        let table = Table::new(routes.merge(Routes::new(7).get("/views/{store}", move |_, request| ok((), request))));
        let check = |path: &str, expected: Option<(&str, &[&str], &str)>| {
            let found = table.find(path);
            let found = found.as_ref().map(|(route, params)| {
                let values: Vec<&str> = (0..route.params.len()).map(|at| &path[params.range(at)]).collect();
                (route.pattern.as_str(), values, route.allow.to_str().expect("ascii"))
            });
            assert_eq!(found, expected.map(|(pattern, values, allow)| (pattern, values.to_vec(), allow)), "{path}");
        };
        check("/views", Some(("/views", &[], "GET, HEAD, OPTIONS")));
        check("/views/orders", Some(("/views/{store}", &["orders"], "GET, HEAD, OPTIONS")));
        check("/views/orders/a%2Fb", Some(("/views/{store}/{key}", &["orders", "a%2Fb"], "GET, POST, HEAD, OPTIONS")));
        for none in ["/", "/view", "/views/", "/views/orders/", "/views/orders/1/2", "*", ""] {
            check(none, None);
        }
    }

    #[test]
    #[should_panic(expected = "two routes answer GET /a")]
    fn a_route_is_answered_once() {
        let ok = |(), _| async { Ok(Response::empty(hyper::StatusCode::OK)) };
        Table::new(Routes::new(()).get("/a", ok).get("/a", ok));
    }
}
