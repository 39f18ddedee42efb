//! What librdkafka's codes mean for whoever asked. By code, never by text.

use super::super::Error;
use super::native::Failure;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::Arc;

/// The error that `failure` is when `what` was tried.
pub(super) fn of(failure: &Failure, what: &str) -> Error {
    let said = || format!("{what}: {}", failure.text);
    match failure.code {
        Code::TopicAuthorizationFailed => Error::Denied { what: format!("{what} (a right on the topic is missing)") },
        Code::GroupAuthorizationFailed => Error::Denied { what: format!("{what} (READ on the group is missing)") },
        Code::ClusterAuthorizationFailed => Error::Denied { what: format!("{what} (a right on the cluster is missing)") },
        Code::TransactionalIdAuthorizationFailed => {
            Error::Denied { what: format!("{what} (WRITE on the transactional id is missing)") }
        }
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism | Code::IllegalSASLState => {
            Error::Unauthenticated { cause: failure.text.clone() }
        }
        Code::SSL => Error::Unauthenticated { cause: format!("TLS: {}", failure.text) },
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedForMessageFormat => {
            Error::Unsupported { what: format!("{what}: the brokers are older than 2.5 ({})", failure.text) }
        }
        code if is_unknown(code) => Error::UnknownTopic { topic: what.to_owned() },
        Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidRequest
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::InvalidTransactionTimeout
        | Code::InvalidTimestamp
        | Code::InvalidRecord
        | Code::InvalidMessage
        | Code::InvalidArgument
        | Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::MessageBatchTooLarge
        | Code::PolicyViolation
        | Code::InconsistentGroupProtocol
        | Code::UnsupportedAssignor
        | Code::UnsupportedCompressionType
        | Code::GroupMaxSizeReached
        | Code::NonEmptyGroup
        | Code::SecurityDisabled => Error::Rejected { cause: said() },
        _ if is_overtaken(failure.code) => Error::Aborted { cause: said().into() },
        _ => Error::Unavailable { cause: said().into() },
    }
}

/// As [`of`], of what is done with topics that were heard of: a broker that knows nothing of one, as one that has just started, soon will.
pub(super) fn of_known(failure: &Failure, what: &str) -> Error {
    match of(failure, what) {
        Error::UnknownTopic { .. } => Error::Unavailable { cause: format!("{what}: {}", failure.text).into() },
        error => error,
    }
}

/// Whether the brokers, or the one that was asked, know no such topic or partition.
pub(super) fn is_unknown(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId | Code::UnknownPartition)
}

/// Whether the group or another producer has gone on without this one.
pub(super) fn is_overtaken(code: Code) -> bool {
    is_fenced(code)
        || matches!(
            code,
            Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::RebalanceInProgress
                | Code::FencedInstanceId
                | Code::FencedMemberEpoch
                | Code::StaleMemberEpoch
                | Code::UnknownProducerId
                | Code::InvalidProducerIdMapping
                | Code::InvalidTransactionalState
                | Code::ConcurrentTransactions
                | Code::OutOfOrderSequenceNumber
                | Code::PurgeQueue
                | Code::PurgeInflight
                | Code::Fatal
                | Code::State
        )
}

/// Whether another producer has taken over the transactional id, or the cluster has ended this one's transaction for it.
pub(super) fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::TransactionCoordinatorFenced)
}

/// Whether the same request may succeed if it is repeated.
pub(super) fn is_passing(failure: &Failure) -> bool {
    failure.retriable || matches!(of(failure, ""), Error::Unavailable { .. })
}

/// For people: what went wrong between here and the brokers, if that is what the code says.
pub(super) fn connection(code: Code, brokers: &str, reason: &str) -> Option<Arc<str>> {
    match code {
        Code::Resolve => Some(format!("no such host: {reason}").into()),
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => {
            Some(format!("login failed: {reason}").into())
        }
        Code::SSL => Some(format!("TLS failed: {reason}").into()),
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut => {
            Some(format!("no broker answers at {brokers} ({reason})").into())
        }
        _ => None,
    }
}
