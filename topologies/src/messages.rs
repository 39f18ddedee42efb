//! How news are shown to users: the event's name, its JSON and its text in the language of the shop. Nothing of this is stored, so that a
//! language can be chosen anew for what happened before.

use millstream::Timestamp;
use millstream::codec::{self, Codec, Json};
use millstream::serve::Shown;
use serde::Serialize;

pub use crate::cli::Language;
use crate::coupons::domain::Refusal;
use crate::notifications::{News, Notification};
use crate::time::Iso;

/// What everybody is shown: what happened, in words, and when.
#[derive(Serialize)]
struct Data<'a, N> {
    #[serde(flatten)]
    news: N,
    message: &'a str,
    timestamp: Iso,
}

/// A stored notification as an event. Its name and its fields are those of the stored news.
///
/// # Errors
/// If it is not stored as one.
pub fn shown(stored: &[u8], language: Language) -> Result<Shown, codec::Error> {
    let Notification { at_ms, news }: Notification = Json.decode(Some(stored))?;
    let message = message(&news, language);
    let invalid = |error| codec::Error::invalid("json", error);
    let news = serde_json::to_value(&news).map_err(invalid)?;
    let (name, fields) = news.as_object().and_then(|news| news.iter().next()).expect("news are an object of one field, its name");
    let data = serde_json::to_vec(&Data { news: fields, message, timestamp: Iso(Timestamp(at_ms)) }).map_err(invalid)?;
    Ok(Shown { name: name.clone().into(), data })
}

fn message(news: &News, language: Language) -> &'static str {
    let (korean, english) = match news {
        News::CouponIssued { .. } => ("쿠폰이 발급되었습니다", "The coupon has been issued to you"),
        News::CouponRejected { reason: Refusal::SoldOut, .. } => ("쿠폰이 모두 소진되었습니다", "The coupon is sold out"),
        News::CouponRejected { reason: Refusal::AlreadyIssued, .. } => {
            ("이미 발급받은 쿠폰입니다", "You already have this coupon")
        }
        News::CouponRejected { reason: Refusal::NotOpen, .. } => {
            ("쿠폰 발급 기간이 아닙니다", "The coupon cannot be claimed at this time")
        }
        News::CouponRejected { reason: Refusal::NotFound, .. } => ("존재하지 않는 쿠폰입니다", "There is no such coupon"),
        News::PaymentCompleted { .. } => ("결제가 완료되었습니다", "The payment is complete"),
        News::PaymentRefunded { .. } => ("결제가 환불되었습니다", "The payment has been refunded"),
        News::OrderCompleted { .. } => ("주문이 완료되었습니다", "The order is complete"),
        News::OrderCancelled { .. } => ("주문이 취소되었습니다", "The order has been cancelled"),
        News::OrderFailed { .. } => ("주문이 실패했습니다", "The order could not be completed"),
        News::CancelRejected { .. } => ("주문을 취소할 수 없습니다", "The order cannot be cancelled any more"),
        News::OrderShipped { .. } => ("상품이 발송되었습니다", "The order has been shipped"),
        News::OrderDelivered { .. } => ("배송이 완료되었습니다", "The order has been delivered"),
    };
    match language {
        Language::Ko => korean,
        Language::En => english,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_shown_in_the_chosen_language() {
        let check = |news: News, language, name: &str, json: &str| {
            let mut stored = Vec::new();
            Json.encode(&Notification { at_ms: 1_700_000_000_123, news }, &mut stored).expect("it encodes");
            let shown = shown(&stored, language).expect("it is shown");
            assert_eq!((shown.name.as_ref(), std::str::from_utf8(&shown.data)), (name, Ok(json)));
        };
        let issued = News::CouponIssued { coupon_id: 7, coupon_name: "여름".into() };
        check(
            issued,
            Language::Ko,
            "coupon-issued",
            r#"{"couponId":7,"couponName":"여름","message":"쿠폰이 발급되었습니다","timestamp":"2023-11-14T22:13:20.123Z"}"#,
        );
        let rejected = News::CouponRejected { coupon_id: 7, reason: Refusal::SoldOut };
        check(
            rejected,
            Language::En,
            "coupon-rejected",
            r#"{"couponId":7,"reason":"COUPON_SOLD_OUT","message":"The coupon is sold out","timestamp":"2023-11-14T22:13:20.123Z"}"#,
        );
    }
}
