//! What libFuzzer says on its standard error, as figures.

/// One run of one target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// How often the target was called.
    pub(super) executions: u64,
    /// The same, a second.
    pub(super) per_second: u64,
    /// Inputs that reached something new.
    pub(super) new_inputs: u64,
    /// Edges of the program that were reached by what was there at the start.
    pub(super) edges_of_seeds: u64,
    /// Edges that were reached in all.
    pub(super) edges: u64,
    /// The most memory.
    pub(super) peak_mib: u64,
    /// The input that it ended with.
    pub(super) file: Option<String>,
    /// What it ended with: the panic's place and message, or libFuzzer's word.
    why: Option<String>,
}

impl Said {
    pub(super) fn parse(text: &str) -> Self {
        let mut said = Self::default();
        let mut panic = None;
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some((name, value)) = line.strip_prefix("stat::").and_then(|l| l.split_once(':')) {
                let value = value.trim().parse().unwrap_or_default();
                match name {
                    "number_of_executed_units" => said.executions = value,
                    "average_exec_per_sec" => said.per_second = value,
                    "new_units_added" => said.new_inputs = value,
                    "peak_rss_mb" => said.peak_mib = value,
                    _ => {}
                }
            } else if let Some(edges) = coverage(line) {
                if line.contains("\tINITED ") {
                    said.edges_of_seeds = edges;
                }
                said.edges = edges;
            } else if let Some((_, file)) = line.split_once("Test unit written to ") {
                said.file = Some(file.trim().to_owned());
            } else if line.contains("panicked at ") {
                panic = Some(format!("{} {}", line.trim(), lines.peek().map_or("", |l| l.trim())));
            } else if let Some((_, word)) = line.split_once("ERROR: libFuzzer: ") {
                said.why = Some(word.trim().to_owned());
            }
        }
        said.why = panic.or(said.why);
        said
    }

    /// Why it ended, or how if it did not say.
    pub(super) fn reason(&self, status: &str) -> String {
        self.why.clone().unwrap_or_else(|| format!("it ended with {status}"))
    }
}

/// `#8 INITED cov: 91 ft: 92 corp: …`
fn coverage(line: &str) -> Option<u64> {
    if !line.starts_with('#') {
        return None;
    }
    line.split_once(" cov: ")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "INFO: Running with entropic power schedule (0xFF, 100).\n\
        #7\tINITED cov: 91 ft: 92 corp: 5/1Kb exec/s: 0 rss: 38Mb\n\
        #9\tNEW    cov: 95 ft: 99 corp: 6/1Kb lim: 300 exec/s: 0 rss: 38Mb L: 300/300 MS: 1 InsertByte-\n\
        #64\tDONE   cov: 96 ft: 99 corp: 6/1Kb lim: 300 exec/s: 32 rss: 40Mb\n\
        Done 64 runs in 2 second(s)\n\
        stat::number_of_executed_units: 64\n\
        stat::average_exec_per_sec:     32\n\
        stat::new_units_added:          1\n\
        stat::slowest_unit_time_sec:    0\n\
        stat::peak_rss_mb:              40\n";

    #[test]
    fn a_clean_run_gives_its_figures() {
        let said = Said::parse(CLEAN);
        let figures = (
            said.executions,
            said.per_second,
            said.new_inputs,
            said.edges_of_seeds,
            said.edges,
            said.peak_mib,
        );
        assert_eq!(figures, (64, 32, 1, 91, 96, 40));
        assert_eq!((said.file, said.why), (None, None));
    }

    #[test]
    fn a_finding_names_its_panic_and_its_input() {
        let text = "#7\tINITED cov: 91 ft: 92 corp: 5/1Kb exec/s: 0 rss: 38Mb\n\
            thread '<unnamed>' (12) panicked at src/formats.rs:9:5:\n\
            what was read is not what is written\n\
            ==12== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/x/'; Test unit written to /x/crash-adc83b19\n";
        let said = Said::parse(text);
        assert_eq!(said.file.as_deref(), Some("/x/crash-adc83b19"));
        let reason = said.reason("signal: 6");
        assert!(reason.contains("formats.rs:9") && reason.ends_with("what is written"), "{reason}");
        let slow = Said::parse("==12== ERROR: libFuzzer: timeout after 61 seconds\n");
        assert_eq!(slow.reason("exit status: 70"), "timeout after 61 seconds");
        assert_eq!(Said::parse("").reason("signal: 9"), "it ended with signal: 9");
    }
}
