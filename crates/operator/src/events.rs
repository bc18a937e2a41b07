//! Publishing Events. A failure to publish is logged and never replaces the error that was to be told.

use std::fmt::Display;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::errors::Chain;

/// Longest note that the API server takes, in bytes.
const NOTE_LIMIT: usize = 1024;

/// Publishes Events about objects.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events reported by this replica.
    pub fn new(client: Client, pod_name: &str) -> Self {
        let instance = (!pod_name.is_empty()).then(|| pod_name.to_owned());
        Self {
            recorder: Recorder::new(
                client,
                Reporter { controller: crate::kubernetes::MANAGER.into(), instance },
            ),
        }
    }

    /// Tells that something went as it should.
    pub async fn normal<K>(&self, object: &K, reason: impl Display, note: impl Display)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object, EventType::Normal, &reason.to_string(), &note.to_string()).await;
    }

    /// Tells that something needs a person's eye.
    pub async fn warning<K>(&self, object: &K, reason: impl Display, note: impl Display)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object, EventType::Warning, &reason.to_string(), &note.to_string()).await;
    }

    async fn publish<K>(&self, object: &K, type_: EventType, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shorten(note, NOTE_LIMIT)),
            action: reason.to_owned(),
            secondary: None,
        };
        let reference = object.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::warn!(
                error = %Chain(&error),
                object = reference.name.as_deref().unwrap_or_default(),
                reason,
                "an event could not be published"
            );
        }
    }
}

/// The text, cut at a character boundary to at most `limit` bytes.
pub fn shorten(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(shorten("short", 10), "short");
        let cut = shorten(&"ä".repeat(20), 10);
        assert_eq!(cut, "äää…");
        assert!(cut.len() <= 10);
    }
}
