use jiff::SignedDuration;

use super::*;

/// Snapshots from times; their ids are their positions.
fn candidates<'a>(times: &[&str], tags: &'a [Vec<String>]) -> Vec<Candidate<'a>> {
    times
        .iter()
        .enumerate()
        .map(|(i, text)| Candidate {
            id: Id::from_bytes([u8::try_from(i).unwrap(); 32]),
            time: serde_json::from_str(&format!("{text:?}")).unwrap(),
            tags: tags.get(i).map_or(&[], Vec::as_slice),
        })
        .collect()
}

fn now() -> Timestamp {
    "2026-06-15T12:00:00Z".parse().unwrap()
}

/// Positions of what is kept, with the reasons.
fn kept(times: &[&str], policy: &Policy) -> Vec<(usize, String)> {
    plan(&candidates(times, &[]), policy, now())
        .unwrap()
        .into_iter()
        .filter(|v| v.keep)
        .map(|v| (usize::from(v.id.as_bytes()[0]), v.reasons.join("; ")))
        .collect()
}

fn positions(times: &[&str], policy: &Policy) -> Vec<usize> {
    kept(times, policy).into_iter().map(|(position, _)| position).collect()
}

const DAYS: [&str; 6] = [
    "2026-06-01T08:00:00Z",
    "2026-06-01T20:00:00Z",
    "2026-06-02T08:00:00Z",
    "2026-06-05T08:00:00Z",
    "2026-06-09T08:00:00Z",
    "2026-06-10T08:00:00Z",
];

#[test]
fn the_newest_of_each_period_stays_while_the_count_lasts() {
    assert_eq!(positions(&DAYS, &Policy { last: Keep::Number(2), ..Policy::default() }), [5, 4]);
    assert_eq!(positions(&DAYS, &Policy { daily: Keep::Number(3), ..Policy::default() }), [5, 4, 3]);
    assert_eq!(
        kept(&DAYS, &Policy { weekly: Keep::Number(2), ..Policy::default() }),
        [(5, "weekly snapshot".into()), (3, "weekly snapshot".into())]
    );
    assert_eq!(positions(&DAYS, &Policy { daily: Keep::All, ..Policy::default() }), [5, 4, 3, 2, 1, 0]);
}

#[test]
fn the_oldest_fills_what_is_left() {
    assert_eq!(
        kept(&DAYS, &Policy { monthly: Keep::Number(12), ..Policy::default() }),
        [(5, "monthly snapshot".into()), (0, "oldest monthly snapshot".into())]
    );
    assert_eq!(positions(&DAYS, &Policy { monthly: Keep::Number(1), ..Policy::default() }), [5]);
}

#[test]
fn periods_are_those_of_the_snapshots_own_clock() {
    // One instant after midnight in Berlin is the evening before in New York.
    let times = ["2026-05-31T23:30:00-04:00", "2026-06-01T05:40:00+02:00", "2026-05-30T12:00:00Z"];
    assert_eq!(positions(&times, &Policy { daily: Keep::Number(2), ..Policy::default() }), [1, 0]);
    assert_eq!(positions(&times, &Policy { monthly: Keep::Number(2), ..Policy::default() }), [1, 0]);
    // The last days of December belong to the first ISO week of the next year.
    let weeks = ["2025-12-28T12:00:00Z", "2025-12-29T12:00:00Z", "2026-01-01T12:00:00Z"];
    assert_eq!(positions(&weeks, &Policy { weekly: Keep::Number(2), ..Policy::default() }), [2, 0]);
}

#[test]
fn within_counts_from_the_newest_that_is_not_in_the_future_strictly() {
    let day = Policy { within: "1d".parse().unwrap(), ..Policy::default() };
    let times =
        ["2026-06-09T08:00:00Z", "2026-06-09T08:00:01Z", "2026-06-10T08:00:00Z", "2027-01-01T00:00:00Z"];
    assert_eq!(positions(&times, &day), [3, 2, 1]);
    assert_eq!(positions(&["2027-01-01T00:00:00Z"], &day), [0], "all are in the future");
    let daily = Policy { within_daily: "3d".parse().unwrap(), ..Policy::default() };
    assert_eq!(kept(&DAYS, &daily), [(5, "daily within 3d".into()), (4, "daily within 3d".into())]);
}

#[test]
fn spans_follow_the_calendar_as_go_does() {
    let before = |span: &str, time: &str| {
        let time: OffsetTime = serde_json::from_str(&format!("{time:?}")).unwrap();
        span.parse::<Span>().unwrap().before(time).to_string()
    };
    assert_eq!(before("1m", "2026-03-31T10:00:00Z"), "2026-03-03T10:00:00Z", "February 31");
    assert_eq!(before("1y", "2024-02-29T10:00:00+02:00"), "2023-03-01T08:00:00Z");
    assert_eq!(before("1y2m3d4h", "2026-05-10T10:00:00Z"), "2025-03-07T06:00:00Z");
    assert_eq!(before("1000000y", "2026-05-10T10:00:00Z"), Timestamp::MIN.to_string());
    for bad in ["", "5", "d", "5x", "-1d", "1 d", "99999999999d", "2000000h"] {
        assert!(bad.parse::<Span>().is_err(), "{bad}");
    }
    assert_eq!("2h1y".parse::<Span>().unwrap().to_string(), "1y2h");
}

#[test]
fn tag_lists_are_an_or_of_ands() {
    let tags = [["a", "b"].map(str::to_owned).to_vec(), vec!["a".to_owned()], Vec::new()];
    let keep = |lists: &[&[&str]]| {
        let policy = Policy {
            tags: lists.iter().map(|l| l.iter().map(ToString::to_string).collect()).collect(),
            ..Policy::default()
        };
        plan(&candidates(&DAYS[..3], &tags), &policy, now())
            .map(|all| all.iter().filter(|v| v.keep).map(|v| v.id.as_bytes()[0]).collect::<Vec<_>>())
            .map_err(|e| e.kind())
    };
    assert_eq!(keep(&[&["a"]]), Ok(vec![1, 0]));
    assert_eq!(keep(&[&["a", "b"]]), Ok(vec![0]));
    assert_eq!(keep(&[&["a", "b"], &[""]]), Ok(vec![2, 0]));
    assert_eq!(keep(&[&["c"]]), Err(ErrorKind::Guard), "keeps nothing");
}

#[test]
fn a_policy_without_rules_is_refused() {
    let error = plan(&candidates(&DAYS, &[]), &Policy::default(), now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(plan(&[], &Policy { last: Keep::Number(1), ..Policy::default() }, now()).unwrap().is_empty());
}

#[test]
fn policies_are_said_as_restic_says_them() {
    let policy = Policy {
        last: Keep::Number(3),
        daily: Keep::All,
        within_weekly: "2m".parse().unwrap(),
        within: "2d".parse().unwrap(),
        tags: vec![vec!["a".to_owned(), "b".to_owned()]],
        ..Policy::default()
    };
    assert_eq!(
        policy.to_string(),
        "keep 3 latest, all daily snapshots, weekly snapshots within 2m and all snapshots with tags [[a, b]] and all snapshots within 2d of the newest"
    );
}

proptest::proptest! {
    /// More to keep never means that something else is lost, and the newest survives every counting rule.
    #[test]
    fn larger_counts_keep_more(
        seconds in proptest::collection::vec((0_i64..40_000_000, -14_i32..15), 1..40),
        counts in proptest::array::uniform6(0_u32..5),
    ) {
        let base: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
        let list: Vec<Candidate<'_>> = seconds.iter().enumerate().map(|(i, (second, hours))| Candidate {
            id: Id::hash(&i.to_le_bytes()),
            time: OffsetTime { timestamp: base + SignedDuration::from_secs(*second), offset: hours * 3600 },
            tags: &[],
        }).collect();
        let policy = |more: u32| {
            let [last, hourly, daily, weekly, monthly, yearly] = counts.map(|c| Keep::Number(c + more));
            Policy { last, hourly, daily, weekly, monthly, yearly, ..Policy::default() }
        };
        let kept = |p: &Policy| -> std::collections::BTreeSet<Id> {
            plan(&list, p, now()).unwrap().into_iter().filter(|v| v.keep).map(|v| v.id).collect()
        };
        let more = kept(&policy(1));
        if counts != [0; 6] {
            let fewer = kept(&policy(0));
            let newest = list.iter().max_by_key(|c| c.time.timestamp).unwrap();
            let as_new = list.iter().filter(|c| c.time.timestamp == newest.time.timestamp);
            proptest::prop_assert!(as_new.clone().any(|c| fewer.contains(&c.id)));
            // The oldest may give up its place as a filler; nothing else may.
            let oldest = list.iter().min_by_key(|c| c.time.timestamp).unwrap().time.timestamp;
            for id in fewer.difference(&more) {
                let lost = list.iter().find(|c| c.id == *id).unwrap();
                proptest::prop_assert_eq!(lost.time.timestamp, oldest);
            }
        }
        proptest::prop_assert!(!more.is_empty());
    }
}
