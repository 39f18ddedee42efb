//! Who asks, and what they may do. A caller shows a signed token (JWT, HS256) with `sub`, `role` and `exp`. Tokens are never logged.
//!
//! What a route needs is one table, [`need`]: a route that is not in it is for admins. What needs a user of its own (claims, lists, the
//! stream) asks [`acts_for`] beside.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use millstream::Handle;
use millstream::serve::{ApiError, Caller, Method, Request};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Shorter secrets can be guessed (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// The secret that tokens are signed with.
pub struct Secret(Vec<u8>);

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    role: Role,
    exp: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Service,
    Admin,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Service => "service",
            Role::Admin => "admin",
        }
    }
}

/// Who may use a route. An admin may use them all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// Anybody, with no token.
    Nobody,
    /// A user, for what is its own.
    User,
    /// A service.
    Service,
    /// A service for what is anybody's, a user for what is its own.
    UserOrService,
    Admin,
}

impl Need {
    fn is_met_by(self, role: Role) -> bool {
        match self {
            Need::Nobody => true,
            Need::User => role != Role::Service,
            Need::Service => role != Role::User,
            Need::UserOrService => true,
            Need::Admin => role == Role::Admin,
        }
    }
}

/// What a route needs.
fn need(method: &Method, route: &str) -> Need {
    let reads = matches!(method.as_str(), "GET" | "HEAD");
    match route {
        "/" | "/healthz" | "/readyz" if reads => Need::Nobody,
        "/api/coupons" | "/api/coupons/{couponId}" | "/api/products" | "/api/products/{productId}" if reads => Need::Nobody,
        "/api/orders/{orderId}" | "/api/payments/{paymentId}" | "/api/deliveries/{orderId}" if reads => Need::UserOrService,
        "/api/users/{userId}/orders" if reads => Need::UserOrService,
        "/api/users/{userId}/coupons" | "/api/users/{userId}/points" | "/api/sse/subscribe/{userId}" if reads => Need::User,
        "/api/coupons/{couponId}/issue" | "/api/orders" | "/api/orders/{orderId}/cancel" => Need::User,
        "/api/payments" | "/api/users/{userId}/points" => Need::Service,
        "/api/orders/{orderId}/ship" | "/api/orders/{orderId}/deliver" => Need::Service,
        _ => Need::Admin,
    }
}

impl Secret {
    /// Reads the secret from a file; a line break at its end is not part of it.
    ///
    /// # Errors
    /// One sentence, if the file cannot be read or the secret is too short.
    pub fn read(file: &Path) -> Result<Secret, String> {
        let shown = file.display();
        let mut secret = std::fs::read(file).map_err(|error| format!("--auth-secret-file {shown} cannot be read: {error}"))?;
        while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            secret.pop();
        }
        if secret.len() < MIN_SECRET_BYTES {
            return Err(format!("--auth-secret-file {shown} holds fewer than {MIN_SECRET_BYTES} bytes"));
        }
        Ok(Secret(secret))
    }

    /// A token of an admin that is good for a day.
    ///
    /// # Panics
    /// Never: the claims are JSON.
    #[must_use]
    pub fn admin_token(&self, app: &Handle) -> String {
        let exp = app.now().0 as u64 / 1_000 + 24 * 3_600;
        let claims = Claims { sub: "shop".into(), role: Role::Admin, exp };
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(&self.0)).expect("the claims are JSON")
    }

    /// Tells who asks; for [`Server::authorize`](millstream::serve::Server::authorize).
    pub fn authorize(&self, app: Handle) -> impl Fn(&Request) -> Result<Caller, ApiError> + Send + Sync + 'static {
        let key = DecodingKey::from_secret(&self.0);
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_required_spec_claims(&["exp", "sub"]);
        rules.leeway = 0;
        rules.validate_aud = false;
        move |request| {
            let need = need(request.method(), request.route());
            if need == Need::Nobody {
                return Ok(Caller::default());
            }
            let token = token(request)?.ok_or_else(|| ApiError::unauthenticated("this needs a token"))?;
            let claims = jsonwebtoken::decode::<Claims>(&token, &key, &rules);
            let Claims { sub, role, exp } =
                claims.map_err(|_| ApiError::unauthenticated("the token is not valid, or no longer"))?.claims;
            if !need.is_met_by(role) {
                return Err(ApiError::forbidden(format!("this is not for the role {:?}", role.name())));
            }
            let left_ms = exp.saturating_mul(1_000).saturating_sub(app.now().0 as u64);
            let expires_at = Instant::now().checked_add(Duration::from_millis(left_ms));
            Ok(Caller { name: Some(sub), role: role.name().to_owned(), expires_at })
        }
    }
}

/// The token of a request: in the header, or in the query of an `EventSource`, which can set no header.
fn token(request: &Request) -> Result<Option<String>, ApiError> {
    match request.header("authorization") {
        Some(text) => {
            Ok(text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, t)| t.trim().to_owned()))
        }
        None => Ok(request.query("access_token")?.map(std::borrow::Cow::into_owned)),
    }
}

/// Refuses a caller who is not this user and no admin. Where nobody is asked for a token, everybody may act for everybody.
///
/// # Errors
/// 403.
pub fn acts_for(caller: &Caller, user_id: u64) -> Result<(), ApiError> {
    let Some(name) = &caller.name else { return Ok(()) };
    let is_user = || caller.role == Role::User.name() && name.parse() == Ok(user_id);
    if caller.role == Role::Admin.name() || is_user() { Ok(()) } else { Err(ApiError::forbidden("this is for another user")) }
}

/// Whether the caller may see what belongs to this user: its own, or anything as a service or an admin.
#[must_use]
pub fn may_see(caller: &Caller, user_id: u64) -> bool {
    caller.role == Role::Service.name() || acts_for(caller, user_id).is_ok()
}

/// As [`acts_for`], but a service may, too.
///
/// # Errors
/// 403.
pub fn reads_for(caller: &Caller, user_id: u64) -> Result<(), ApiError> {
    if may_see(caller, user_id) { Ok(()) } else { acts_for(caller, user_id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_need_what_the_contract_says() {
        let check = |method: Method, route: &str, expected: Need| assert_eq!(need(&method, route), expected, "{method} {route}");
        for open in ["/", "/healthz", "/readyz"] {
            check(Method::GET, open, Need::Nobody);
            check(Method::HEAD, open, Need::Nobody);
        }
        for (route, read, write) in [
            ("/api/coupons", Need::Nobody, Need::Admin),
            ("/api/coupons/{couponId}", Need::Nobody, Need::Admin),
            ("/api/coupons/{couponId}/issue", Need::User, Need::User),
            ("/api/products", Need::Nobody, Need::Admin),
            ("/api/products/{productId}", Need::Nobody, Need::Admin),
            ("/api/products/{productId}/stock", Need::Admin, Need::Admin),
            ("/api/products/{productId}/price", Need::Admin, Need::Admin),
            ("/api/orders", Need::User, Need::User),
            ("/api/orders/{orderId}", Need::UserOrService, Need::Admin),
            ("/api/orders/{orderId}/cancel", Need::User, Need::User),
            ("/api/orders/{orderId}/ship", Need::Service, Need::Service),
            ("/api/orders/{orderId}/deliver", Need::Service, Need::Service),
            ("/api/payments", Need::Service, Need::Service),
            ("/api/payments/{paymentId}", Need::UserOrService, Need::Admin),
            ("/api/deliveries/{orderId}", Need::UserOrService, Need::Admin),
            ("/api/users/{userId}/orders", Need::UserOrService, Need::Admin),
            ("/api/users/{userId}/coupons", Need::User, Need::Admin),
            ("/api/users/{userId}/points", Need::User, Need::Service),
            ("/api/sse/subscribe/{userId}", Need::User, Need::Admin),
        ] {
            check(Method::GET, route, read);
            check(Method::POST, route, write);
        }
        for closed in ["/views", "/views/{store}/{key}", "/dlq", "/metrics", "/topology", "/api/stats", "/what/comes/later"] {
            check(Method::GET, closed, Need::Admin);
        }
    }

    #[test]
    fn roles_meet_needs() {
        for (need, user, service) in [
            (Need::Nobody, true, true),
            (Need::User, true, false),
            (Need::Service, false, true),
            (Need::UserOrService, true, true),
            (Need::Admin, false, false),
        ] {
            let met = [Role::User, Role::Service, Role::Admin].map(|role| need.is_met_by(role));
            assert_eq!(met, [user, service, true], "{need:?}");
        }
    }

    #[test]
    fn callers_act_for_themselves() {
        let caller = |name: &str, role: &str| Caller { name: Some(name.into()), role: role.into(), expires_at: None };
        for (caller, user, may) in [
            (Caller::default(), 7, true),
            (caller("7", "user"), 7, true),
            (caller("7", "user"), 8, false),
            (caller("seven", "user"), 7, false),
            (caller("7", "service"), 7, false),
            (caller("1", "admin"), 7, true),
        ] {
            assert_eq!(acts_for(&caller, user).is_ok(), may, "{caller:?} for {user}");
        }
    }
}
