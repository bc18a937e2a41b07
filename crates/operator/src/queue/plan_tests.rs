use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

/// A volume of a run that needs a place on `node` and at the storage.
fn one(namespace: &str, run: &str, component: usize, second: i64, node: &str) -> Waiting {
    let scopes = vec![
        Scope::Node(node.into()),
        Scope::AllNodes,
        Scope::Storage("s/store".into()),
        Scope::Namespace(namespace.into()),
        Scope::Run(run.into()),
    ];
    Waiting {
        key: Key { run: run.into(), component: format!("volume/{component:04}") },
        urgent: false,
        since: at(second),
        place: Place { namespace: namespace.into(), scopes },
        limits: Vec::new(),
    }
}

/// Which scopes have a limit, and which.
type Bound = (fn(&Scope) -> bool, u32);

fn limited(mut all: Vec<Waiting>, limits: &[Bound]) -> Vec<Waiting> {
    for one in &mut all {
        for (which, most) in limits {
            let scopes = one.place.scopes.iter().filter(|scope| which(scope));
            one.limits.extend(scopes.map(|scope| Limit { scope: scope.clone(), most: *most }));
        }
    }
    all
}

const NODE: fn(&Scope) -> bool = |scope| matches!(scope, Scope::Node(_));
const STORAGE: fn(&Scope) -> bool = |scope| matches!(scope, Scope::Storage(_));
const NAMESPACE: fn(&Scope) -> bool = |scope| matches!(scope, Scope::Namespace(_));

/// Plays a cluster: each round the planner is asked, all who may go do, and some Jobs end. Gives who started, in order,
/// and fails when a limit is exceeded, or when nothing moves although somebody waits.
fn play(mut waiting: Vec<Waiting>, ends: impl Fn(usize, &Waiting) -> bool) -> Vec<Key> {
    let mut at_work: Vec<Waiting> = Vec::new();
    let mut served = BTreeMap::new();
    let mut started = Vec::new();
    for round in 0.. {
        if waiting.is_empty() && at_work.is_empty() {
            break;
        }
        let taken: Vec<Place> = at_work.iter().map(|one| one.place.clone()).collect();
        let answers = plan(&taken, &waiting, &served);
        assert_eq!(answers.len(), waiting.len(), "everybody is answered");
        let (go, stay): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|one| answers[&one.key] == Answer::Go);
        for one in &go {
            served.insert(one.place.namespace.clone(), at(10_000 + i64::try_from(started.len()).unwrap()));
            started.push(one.key.clone());
        }
        assert!(!go.is_empty() || !at_work.is_empty(), "all stand still in round {round}");
        at_work.extend(go);
        let mut usage: BTreeMap<&Scope, u32> = BTreeMap::new();
        for scope in at_work.iter().flat_map(|one| &one.place.scopes) {
            *usage.entry(scope).or_default() += 1;
        }
        for limit in at_work.iter().flat_map(|one| &one.limits) {
            assert!(usage[&limit.scope] <= limit.most, "{:?} in round {round}", limit.scope);
        }
        let before = at_work.len();
        at_work.retain(|one| !ends(round, one));
        assert!(at_work.len() < before || !stay.is_empty() || at_work.is_empty() || round < 100_000);
        waiting = stay;
    }
    started
}

#[test]
fn two_hundred_claims_of_one_namespace_do_not_hold_up_the_one_claim_of_another() {
    let mut all: Vec<Waiting> = (0..200).map(|n| one("big", "big-run", n, 0, "n1")).collect();
    all.push(one("small", "small-run", 0, 30, "n1"));
    for most in [1, 2, 4] {
        let started = play(limited(all.clone(), &[(STORAGE, most)]), |_, _| true);
        assert_eq!(started.len(), 201);
        let turn = started.iter().position(|key| key.run == "small-run").unwrap();
        // Those who start in one round start together, so of them the order says nothing.
        let first_rounds = usize::try_from(most).unwrap().max(2);
        assert!(turn < first_rounds, "served as number {turn} with a limit of {most}");
    }
}

/// The storage has one place, and it is always taken when the small one comes: its turn is the very next.
#[test]
fn whoever_comes_later_is_next_when_the_other_was_served_last() {
    let waiting = limited(
        vec![one("big", "big-run", 1, 0, "n1"), one("small", "small-run", 0, 30, "n1")],
        &[(STORAGE, 1)],
    );
    let served = BTreeMap::from([("big".to_owned(), at(40))]);
    let answers = plan(&[], &waiting, &served);
    assert_eq!(answers[&waiting[1].key], Answer::Go);
    assert_eq!(
        answers[&waiting[0].key].to_string(),
        "waits for a free place at BackupStorage s/store (1 of 1 in use), 1st in line"
    );
}

#[test]
fn a_hundred_namespaces_at_the_same_minute_are_all_served_in_turn() {
    let mut all = Vec::new();
    for namespace in 0..100 {
        for component in 0..=(namespace % 5) {
            let node = format!("n{}", (namespace + component) % 3);
            all.push(one(&format!("ns{namespace:03}"), &format!("run{namespace:03}"), component, 0, &node));
        }
    }
    let count = all.len();
    let limited = limited(all, &[(NODE, 2), (STORAGE, 5), (NAMESPACE, 2)]);
    let started = play(limited, |round, one| (round + one.key.component.len()) % 2 == 0);
    assert_eq!(started.len(), count);
    // Nobody gets a third place before everybody has had one.
    let firsts: BTreeMap<&str, usize> =
        started.iter().enumerate().rev().map(|(turn, key)| (key.run.as_str(), turn)).collect();
    let last_first = firsts.values().max().copied().unwrap();
    for run in firsts.keys() {
        let before = started[..last_first].iter().filter(|key| key.run == **run).count();
        assert!(before <= 3, "{run} had {before} places before the last one had its first");
    }
}

#[test]
fn a_slow_run_and_a_busy_node_hold_up_nobody_else() {
    // One Job never ends on n1; all of n2 go past it.
    let mut all: Vec<Waiting> =
        vec![one("slow", "slow-run", 0, 0, "n1"), one("slow", "slow-run", 1, 0, "n1")];
    all.extend((0..20).map(|n| one("quick", "quick-run", n, 10, "n2")));
    let all = limited(all, &[(NODE, 1)]);
    let started = play(all, |round, one| one.place.namespace == "quick" || round > 50);
    assert_eq!(started.len(), 22);
    let second = started.iter().position(|key| key.component == "volume/0001" && key.run == "slow-run");
    assert_eq!(second, Some(21), "it had to wait for its node, and only for that");
}

#[test]
fn restores_go_first_whoever_they_belong_to() {
    let mut all: Vec<Waiting> = (0..3).map(|n| one("a", "backup", n, 0, "n1")).collect();
    all.push(Waiting { urgent: true, ..one("b", "restore", 0, 100, "n1") });
    let all = limited(all, &[(NODE, 1)]);
    // Namespace b is at work already, and was served last.
    let taken = [one("b", "other", 0, 0, "n2").place];
    let answers = plan(&taken, &all, &BTreeMap::from([("b".to_owned(), at(200))]));
    assert_eq!(answers[&all[3].key], Answer::Go);
    let position = |index: usize| match &answers[&all[index].key] {
        Answer::Wait { position, .. } => *position,
        Answer::Go | Answer::NotKnown => 0,
    };
    assert_eq!([position(0), position(1), position(2)], [1, 2, 3]);
}

#[test]
fn places_in_line_follow_the_turns_and_are_counted_for_each_limit() {
    let mut all: Vec<Waiting> = (0..2).map(|n| one("a", "a-run", n, 0, "n1")).collect();
    all.extend((0..2).map(|n| one("b", "b-run", n, 5, "n1")));
    all.push(one("c", "c-run", 0, 9, "n2"));
    let all = limited(all, &[(NODE, 1)]);
    let taken = [one("z", "z", 0, 0, "n1").place, one("z", "z", 1, 0, "n2").place];
    let answers = plan(&taken, &all, &BTreeMap::new());
    let told: Vec<String> = all.iter().map(|one| answers[&one.key].to_string()).collect();
    let on = |node: &str, place: &str| {
        format!("waits for a free place on node {node} (1 of 1 in use), {place} in line")
    };
    assert_eq!(told, [on("n1", "1st"), on("n1", "3rd"), on("n1", "2nd"), on("n1", "4th"), on("n2", "1st")]);
}

#[test]
fn a_limit_that_was_lowered_starts_nobody_until_enough_have_ended() {
    let all = limited(vec![one("a", "run", 5, 0, "n1")], &[(NODE, 1)]);
    let taken: Vec<Place> = (0..3).map(|n| one("a", "run", n, 0, "n1").place).collect();
    let told = plan(&taken, &all, &BTreeMap::new())[&all[0].key].to_string();
    assert!(told.contains("3 of 1 in use"), "{told}");
    assert_eq!(plan(&[], &all, &BTreeMap::new())[&all[0].key], Answer::Go);
}

#[test]
fn the_same_facts_give_the_same_plan_in_any_order() {
    let mut all: Vec<Waiting> = (0..40)
        .map(|n| one(&format!("ns{}", n % 7), &format!("run{}", n % 11), n, 0, &format!("n{}", n % 2)))
        .collect();
    all = limited(all, &[(NODE, 3), (STORAGE, 4)]);
    let first = plan(&[], &all, &BTreeMap::new());
    all.reverse();
    assert_eq!(plan(&[], &all, &BTreeMap::new()), first);
    assert_eq!(first.values().filter(|answer| **answer == Answer::Go).count(), 4);
}

#[test]
fn ordinals_are_english() {
    let told: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 113].map(|n| Ordinal(n).to_string()).into();
    assert_eq!(told, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "113th"]);
}
