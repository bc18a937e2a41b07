//! The lifecycle rules of a bucket: whether the server itself deletes or moves what we store there. Only looked at,
//! never changed.
//!
//! Source: Amazon S3 API reference, `GetBucketLifecycleConfiguration`.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Method;
use serde::Deserialize;

use super::bucket::{Bucket, is};
use super::clients;
use crate::store::answer::{Answer, find, innermost, told};
use crate::store::{Location, StoreOptions};

/// What the rules of a bucket mean for what lies below a prefix of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// No enabled rule deletes or moves anything there.
    Harmless,
    /// These do, or will.
    Rules(Vec<LifecycleRule>),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// An enabled rule that reaches what is stored below the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleRule {
    /// Its name in the configuration; may be empty.
    pub id: String,
    /// What it does, in words: `deletes objects after 30 days`.
    pub effect: String,
}

/// Reads the rules of the bucket that a location lies in. Never an error: what cannot be read is told as such.
pub fn lifecycle<'a>(location: &'a Location, options: &'a StoreOptions) -> BoxFuture<'a, Lifecycle> {
    Box::pin(async move {
        let Location::S3 { endpoint, bucket, prefix } = location else {
            return Lifecycle::Unknown("Holdfast reads such rules of S3 servers only".to_owned());
        };
        let made = clients::s3_bucket(location, (endpoint, bucket), &options.s3, options.ca_pem.as_deref());
        match made {
            Ok(bucket) => ask(&bucket, prefix).await,
            Err(error) => Lifecycle::Unknown(error.chain()),
        }
    })
}

async fn ask(bucket: &Bucket, prefix: &str) -> Lifecycle {
    let answer = match bucket.send(Method::GET, "", "lifecycle", Bytes::new()).await {
        Ok(answer) => answer,
        Err(error) if is(&error, &["NoSuchLifecycleConfiguration"]) => return Lifecycle::Harmless,
        Err(error) if find::<Answer>(&error).is_some_and(|answer| answer.status == 501) => {
            let why = "this server does not tell such rules through its S3 interface; its own administration may \
                       know whether it deletes or moves objects by itself";
            return Lifecycle::Unknown(why.to_owned());
        }
        Err(error) => {
            let said = find::<Answer>(&error).map(ToString::to_string);
            return Lifecycle::Unknown(said.unwrap_or_else(|| innermost(&error)));
        }
    };
    match judge(&String::from_utf8_lossy(&answer), prefix) {
        Ok(rules) if rules.is_empty() => Lifecycle::Harmless,
        Ok(rules) => Lifecycle::Rules(rules),
        Err(why) => Lifecycle::Unknown(format!(
            "the server's answer cannot be read: {}",
            told(&why.to_string(), MOST)
        )),
    }
}

/// Most characters told of a rule's name, and of what it does.
const MOST: usize = 300;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    #[serde(default, rename = "Rule")]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rule {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default)]
    status: String,
    /// The older form of a filter.
    prefix: Option<String>,
    filter: Option<Filter>,
    expiration: Option<When>,
    #[serde(default, rename = "Transition")]
    transitions: Vec<When>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    prefix: Option<String>,
    tag: Option<Tag>,
    and: Option<And>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct And {
    prefix: Option<String>,
    #[serde(default, rename = "Tag")]
    tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
struct Tag {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct When {
    days: Option<String>,
    date: Option<String>,
    storage_class: Option<String>,
}

impl When {
    fn time(&self) -> Option<String> {
        match (&self.days, &self.date) {
            (Some(days), _) => Some(format!("after {days} days")),
            (None, Some(date)) => Some(format!("from {date} on")),
            (None, None) => None,
        }
    }
}

impl Rule {
    /// Whether it can reach an object of ours below the prefix. Ours have no tags, so a rule that asks for one does
    /// not.
    fn reaches(&self, below: &str) -> bool {
        let filter = self.filter.as_ref();
        let and = filter.and_then(|filter| filter.and.as_ref());
        let tagged =
            filter.is_some_and(|filter| filter.tag.is_some()) || and.is_some_and(|and| !and.tags.is_empty());
        let prefix = self
            .prefix
            .as_deref()
            .or_else(|| filter.and_then(|filter| filter.prefix.as_deref()))
            .or_else(|| and.and_then(|and| and.prefix.as_deref()))
            .unwrap_or_default();
        !tagged && (below.starts_with(prefix) || prefix.starts_with(below))
    }

    fn effect(&self) -> Option<String> {
        // An expiration without a time only removes markers of objects that are gone already. Versions that are not
        // current any more and uploads that were broken off are nothing that a repository needs.
        let deletes =
            self.expiration.as_ref().and_then(When::time).map(|time| format!("deletes objects {time}"));
        let moves = self.transitions.iter().filter_map(|to| {
            let class = to.storage_class.as_deref().unwrap_or("another class");
            Some(format!("moves objects to {class} {}", to.time()?))
        });
        let all: Vec<String> = deletes.into_iter().chain(moves).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

/// The enabled rules of a configuration that delete or move what lies below a prefix.
fn judge(xml: &str, prefix: &str) -> Result<Vec<LifecycleRule>, quick_xml::DeError> {
    let configuration: Configuration = quick_xml::de::from_str(xml)?;
    let prefix = prefix.trim_matches('/');
    let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let rules =
        configuration.rules.into_iter().filter(|rule| rule.status == "Enabled" && rule.reaches(&below));
    Ok(rules
        .filter_map(|rule| {
            let effect = rule.effect()?;
            Some(LifecycleRule { id: told(&rule.id, MOST), effect: told(&effect, MOST) })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(rules: &str, prefix: &str) -> Vec<String> {
        let xml = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rules}</LifecycleConfiguration>"#
        );
        judge(&xml, prefix).unwrap().into_iter().map(|rule| rule.effect).collect()
    }

    #[test]
    fn what_a_server_says_of_its_rules_steers_no_terminal() {
        let rule = "<Rule><ID>r</ID><Status>Enabled</Status><Filter/><Transition><Days>1</Days>\
                    <StorageClass>\u{9b}2J</StorageClass></Transition></Rule>";
        assert_eq!(effects(rule, "prod"), ["moves objects to  2J after 1 days"]);
    }

    #[test]
    fn what_deletes_or_moves_is_found_and_what_only_tidies_up_is_not() {
        let rule = |action: &str| {
            effects(&format!("<Rule><ID>r</ID><Status>Enabled</Status><Filter/>{action}</Rule>"), "prod")
        };
        assert_eq!(rule("<Expiration><Days>30</Days></Expiration>"), ["deletes objects after 30 days"]);
        assert_eq!(
            rule("<Expiration><Date>2027-01-01T00:00:00.000Z</Date></Expiration>"),
            ["deletes objects from 2027-01-01T00:00:00.000Z on"]
        );
        assert_eq!(
            rule(
                "<Transition><Days>0</Days><StorageClass>GLACIER</StorageClass></Transition>\
                 <Transition><Days>90</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition>"
            ),
            ["moves objects to GLACIER after 0 days, moves objects to DEEP_ARCHIVE after 90 days"]
        );
        for harmless in [
            "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>",
            "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
            "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>",
        ] {
            assert_eq!(rule(harmless), [""; 0], "{harmless}");
        }
    }

    #[test]
    fn only_enabled_rules_that_reach_our_prefix_count() {
        let found = |prefix: &str, status: &str, filter: &str| {
            let rule = format!(
                "<Rule><Status>{status}</Status>{filter}<Expiration><Days>1</Days></Expiration></Rule>"
            );
            !effects(&rule, prefix).is_empty()
        };
        assert!(!found("prod", "Disabled", ""));
        for (prefix, filter, reaches) in [
            ("prod", "", true),
            ("prod", "<Filter><Prefix></Prefix></Filter>", true),
            ("prod", "<Filter><Prefix>prod/</Prefix></Filter>", true),
            ("prod", "<Filter><Prefix>pro</Prefix></Filter>", true),
            ("prod", "<Prefix>prod/c/shop/</Prefix>", true),
            (
                "/prod/",
                "<Filter><And><Prefix>prod/</Prefix><ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></And></Filter>",
                true,
            ),
            ("prod", "<Filter><Prefix>logs/</Prefix></Filter>", false),
            ("prod", "<Filter><Prefix>production/</Prefix></Filter>", false),
            ("prod", "<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>", false),
            (
                "prod",
                "<Filter><And><Prefix></Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter>",
                false,
            ),
            ("", "<Filter><Prefix>logs/</Prefix></Filter>", true),
        ] {
            assert_eq!(found(prefix, "Enabled", filter), reaches, "{prefix} {filter}");
        }
    }

    #[test]
    fn several_rules_are_told_one_by_one_and_nonsense_is_told_as_such() {
        let two = "<Rule><ID>a</ID><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>\
                   <Rule><ID>b</ID><Status>Enabled</Status><Expiration><Days>2</Days></Expiration></Rule>";
        assert_eq!(effects(two, "").len(), 2);
        assert_eq!(effects("", ""), [""; 0]);
        assert!(judge("<html>no", "").is_err());
        assert!(judge("", "").is_err());
    }

    #[tokio::test]
    async fn other_stores_are_not_known() {
        let found = lifecycle(&"gs:bucket:/".parse().unwrap(), &StoreOptions::default()).await;
        assert!(matches!(found, Lifecycle::Unknown(_)));
    }
}
