//! Gauges that are made anew for each scrape: one name, one row an object or namespace, bounded.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::MetricType;

/// Most rows of one family. What is over it is left out and counted, so that no number of objects makes a scrape
/// endless.
pub(super) const MAX_ROWS: usize = 5_000;

/// The rows of one gauge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    rows: Vec<(Labels, f64)>,
}

/// Names and values of labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        self.0.as_slice().encode(encoder)
    }
}

/// Labels from names and texts.
pub(super) fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    Labels(pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
}

impl Family {
    pub(super) fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, pairs: [(&'static str, &str); N], value: f64) {
        self.rows.push((labels(pairs), value));
    }

    /// Adds a row when there is a value.
    pub(super) fn row_if<const N: usize>(&mut self, pairs: [(&'static str, &str); N], value: Option<f64>) {
        if let Some(value) = value {
            self.row(pairs, value);
        }
    }

    /// Writes the rows; gives how many were left out.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<usize, fmt::Error> {
        if self.rows.is_empty() {
            return Ok(0);
        }
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (labels, value) in self.rows.iter().take(MAX_ROWS) {
            metric.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(self.rows.len().saturating_sub(MAX_ROWS))
    }
}

/// A count as a gauge has it. Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "metrics are 64-bit floats by their format")]
pub(super) const fn number(count: u64) -> f64 {
    count as f64
}
