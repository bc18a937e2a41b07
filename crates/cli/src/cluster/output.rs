//! In which form results are printed: `-o table|wide|json|yaml|name`, as kubectl has it.

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::json;

use crate::exit;
use crate::failure::{Failure, Result};
use crate::ui::{print, report};

/// A form of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// The objects as JSON
    Json,
    /// The objects as YAML
    Yaml,
    /// Only their names, as KIND.GROUP/NAME
    Name,
}

/// Form of a result that is one report and no object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ReportFormat {
    /// For people
    #[default]
    Table,
    /// As JSON
    Json,
    /// As YAML
    Yaml,
}

impl Format {
    /// Whether a person reads it.
    pub(super) fn for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

fn unprintable(e: &dyn std::fmt::Display) -> Failure {
    Failure { cause: format!("write the result: {e}"), advice: None, kind: "Internal", code: exit::FATAL }
}

/// A value as JSON, with line breaks.
pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| unprintable(&e))
}

/// A value as YAML, without the last line end.
pub(super) fn to_yaml(value: &impl Serialize) -> Result<String> {
    // By way of JSON, so that both forms hold the same.
    let value = serde_json::to_value(value).map_err(|e| unprintable(&e))?;
    let text = serde_saphyr::to_string(&value).map_err(|e| unprintable(&e))?;
    Ok(text.trim_end().to_owned())
}

/// `kind.group/name`, as `kubectl get -o name` prints it.
pub(super) fn full_name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}.{}/{}", K::kind(&()).to_lowercase(), K::group(&()), object.name_any())
}

/// Prints one object in a form for programs. For people its caller has something better.
pub(super) fn object<K>(object: &K, format: Format) -> Result<()>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    match format {
        Format::Json => report(&to_json(object)?),
        Format::Yaml => report(&to_yaml(object)?),
        Format::Name | Format::Table | Format::Wide => report(&full_name(object)),
    }
}

/// Prints a list of objects in a form for programs.
pub(super) fn list<K>(objects: &[K], format: Format) -> Result<()>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let all = || json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects});
    match format {
        Format::Json => print(&to_json(&all())?),
        Format::Yaml => print(&to_yaml(&all())?),
        Format::Name | Format::Table | Format::Wide => {
            objects.iter().try_for_each(|object| print(&full_name(object)))
        }
    }
}

/// How long ago something was, as short as kubectl says it: `45s`, `5m30s`, `12m`, `3h20m`, `30h`, `3d4h`, `40d`, `2y10d`.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |large: i64, unit: &str, small: i64, sub: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{sub}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => with(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_api::Backup;

    use super::*;

    #[test]
    fn ages_are_as_short_as_kubectls() {
        let then: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let of = |seconds: i64| age(then, then + jiff::SignedDuration::from_secs(seconds));
        assert_eq!(
            [-5, 45, 330, 720, 12_000, 108_000, 273_600, 3_456_000, 63_936_000].map(of),
            ["0s", "45s", "5m30s", "12m", "3h20m", "30h", "3d4h", "40d", "2y10d"]
        );
    }

    #[test]
    fn objects_are_printed_as_kubectl_prints_them() {
        let mut backup = Backup::new("first", holdfast_api::BackupSpec::default());
        backup.metadata.namespace = Some("shop".into());
        assert_eq!(full_name(&backup), "backup.holdfast.dev/first");
        let json: serde_json::Value = serde_json::from_str(&to_json(&backup).unwrap()).unwrap();
        assert_eq!((&json["apiVersion"], &json["kind"]), (&json!("holdfast.dev/v1alpha1"), &json!("Backup")));
        let yaml = to_yaml(&backup).unwrap();
        assert!(yaml.contains("kind: Backup\n") && yaml.contains("  namespace: shop\n"), "{yaml}");
        let back: Backup = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(back.metadata.name.as_deref(), Some("first"));
    }
}
