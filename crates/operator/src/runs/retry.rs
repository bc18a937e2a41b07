//! When a component that failed for a passing reason is tried again. Pure: the same attempt has the same pause whoever
//! asks, so nothing has to be kept.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use super::time_left;

/// The pauses before the first retries; the last one is that of all further ones.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(5),
];

/// The pause before retry `number` (from 1), up to a fifth more or less of the one in the list, so that runs that failed
/// together do not come back together. `who` is what is tried again.
pub fn pause(number: u32, who: &str) -> Duration {
    let place = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let [.., longest] = PAUSES;
    let pause = PAUSES.get(place).copied().unwrap_or(longest);
    let hash = digest(&SHA256, format!("{who}\n{number}").as_bytes());
    let byte = hash.as_ref().first().copied().unwrap_or_default();
    pause.mul_f64(0.8 + 0.4 * f64::from(byte) / 255.0)
}

/// When retry `number` is due after an attempt that ended at `ended`, to the second.
pub fn due(ended: Timestamp, number: u32, who: &str) -> Timestamp {
    let at = ended.saturating_add(pause(number, who)).unwrap_or(ended);
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// What becomes of a component whose last attempt failed for a passing reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The run's time would be up: the last failure is the component's.
    Over,
    /// The next attempt begins after this time.
    After(Duration),
    /// The next attempt begins.
    Now,
}

/// Whose turn it is `now`, when the next attempt is due at `due` and the run may take `deadline` since `started`.
pub fn turn(due: Timestamp, started: Timestamp, deadline: Duration, now: Timestamp) -> Turn {
    if time_left(started, deadline, due.max(now)).is_none() {
        return Turn::Over;
    }
    match Duration::try_from(due.duration_since(now)) {
        Ok(left) if !left.is_zero() => Turn::After(left),
        Ok(_) | Err(_) => Turn::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_five_minutes_and_differ_a_little() {
        for (number, about) in [(1, 10.0), (2, 30.0), (3, 60.0), (4, 120.0), (5, 300.0), (6, 300.0)] {
            for who in ["a", "b", "c", "d"] {
                let pause = pause(number, who).as_secs_f64();
                assert!((about * 0.8..=about * 1.2).contains(&pause), "{number} {who}: {pause}");
            }
        }
        let all: Vec<Duration> = (0..20).map(|n| pause(3, &format!("run-{n}"))).collect();
        assert!(all.iter().any(|pause| *pause != all[0]), "they would come back in step");
        assert_eq!(pause(3, "a"), pause(3, "a"), "the same at each look");
        assert!(pause(u32::MAX, "a") <= Duration::from_mins(6));
    }

    #[test]
    fn it_is_due_after_its_pause_to_the_second() {
        let ended: Timestamp = "2026-11-20T02:00:00Z".parse().unwrap();
        let due = due(ended, 1, "a");
        let after = due.duration_since(ended).as_secs();
        assert!((8..=12).contains(&after), "{after}");
        assert_eq!(due.subsec_nanosecond(), 0);
    }

    #[test]
    fn the_next_attempt_comes_when_it_is_due_and_never_after_the_end_of_the_run() {
        let at = |text: &str| format!("2026-11-20T02:{text}Z").parse::<Timestamp>().unwrap();
        let hour = Duration::from_hours(1);
        let turn = |due: &str, deadline, now: &str| turn(at(due), at("00:00"), deadline, at(now));
        assert_eq!(turn("10:30", hour, "10:00"), Turn::After(Duration::from_secs(30)));
        assert_eq!(turn("10:30", hour, "10:30"), Turn::Now);
        assert_eq!(turn("10:30", hour, "40:00"), Turn::Now, "the operator was down meanwhile");
        let short = Duration::from_secs(620);
        assert_eq!(turn("10:30", short, "10:00"), Turn::Over, "not waited for, as it would come too late");
        assert_eq!(turn("10:10", short, "10:30"), Turn::Over);
    }
}
