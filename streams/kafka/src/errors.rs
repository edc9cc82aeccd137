//! The client's errors as the project's one error.

use std::fmt::Display;

use granary_core::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What could not be done, and why.
pub(crate) fn failed(what: impl Display, error: &KafkaError) -> Error {
    let kind = match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => {
            ErrorKind::Invalid
        }
        other => other.rdkafka_error_code().map_or(ErrorKind::Unavailable, kind_of),
    };
    Error::new(kind, format!("{what}: {}", reason(error)))
}

/// As [`failed`], for the bare code that some answers carry.
pub(crate) fn refused(what: impl Display, code: Code) -> Error {
    Error::new(kind_of(code), format!("{what}: {code}"))
}

fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => format!("{} ({})", error.string(), error.name()),
        other => other.to_string(),
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => ErrorKind::NotFound,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::MessageSizeTooLarge
        | Code::OffsetMetadataTooLarge
        | Code::UnsupportedVersion => ErrorKind::Invalid,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => ErrorKind::Fenced,
        _ => ErrorKind::Unavailable,
    }
}
