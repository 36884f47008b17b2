//! The worked examples of what Flink 2.3.0 does, and what must hold whatever the pattern.

use serde_json::{json, Value};

use super::*;

/// An event: the letter that conditions look at, and which one it is.
type Event = (char, u32);

struct Letters(Event);

impl Conditions<Event> for Letters {
    fn holds(&mut self, condition: u16, _: &History<'_, Event>) -> Result<bool, crate::expr::Fault> {
        Ok(self.0 .0 as u32 == u32::from(condition))
    }
}

/// `a -> b+ ->> c? . d`: `.` next, `->` followed by, `->>` followed by any, `!->` not followed by, `!.` not next; behind the letter `?`,
/// `+`, `*`, `{n}`, `{n,}`, `{n,m}`, then `c` consecutive, `x` combinations, `g` greedy, `/z` until z.
fn stages(text: &str) -> Vec<Value> {
    let mut contiguity = "strict";
    let mut found: Vec<Value> = vec![];
    for word in text.split(' ') {
        contiguity = match word {
            "." => "strict",
            "->" => "skip_till_next",
            "->>" => "skip_till_any",
            "!->" => "not_follow",
            "!." => "not_next",
            _ => {
                let mut stage = stage(word);
                stage["contiguity"] = json!(contiguity);
                found.push(stage);
                continue;
            }
        };
    }
    found
}

fn stage(word: &str) -> Value {
    let letter = word.chars().next().unwrap();
    let mut stage = json!({"name": letter.to_string(), "where": {"is": letter as u32}});
    quantified(&mut stage, &word[1..]);
    stage
}

fn quantified(stage: &mut Value, mut rest: &str) {
    while let Some(c) = rest.chars().next() {
        let mut taken = 1;
        match c {
            '?' => stage["optional"] = json!(true),
            '+' | '*' => {
                stage["times"] = json!({"from": 1, "to": 1});
                stage["looping"] = json!(true);
                if c == '*' {
                    stage["optional"] = json!(true);
                }
            }
            '{' => {
                taken = rest.find('}').unwrap() + 1;
                let (from, to) =
                    rest[1..taken - 1].split_once(',').map_or((&rest[1..taken - 1], None), |(f, t)| (f, Some(t)));
                let from: u32 = from.parse().unwrap();
                stage["looping"] = json!(to == Some(""));
                let to: u32 = to.filter(|t| !t.is_empty()).map_or(from, |t| t.parse().unwrap());
                stage["times"] = json!({"from": from, "to": to});
            }
            'c' => stage["inner"] = json!("strict"),
            'x' => stage["inner"] = json!("skip_till_any"),
            'g' => stage["greedy"] = json!(true),
            '/' => {
                stage["until"] = json!({"is": rest.chars().nth(1).unwrap() as u32});
                taken = 2;
            }
            other => panic!("{other}"),
        }
        rest = &rest[taken..];
    }
}

fn pattern(stages: Vec<Value>, skip: Value) -> Pattern {
    serde_json::from_value(json!({"stages": stages, "skip": skip})).unwrap()
}

struct Play {
    automaton: Automaton,
    runs: Runs<Event>,
    said: Vec<String>,
}

impl Play {
    fn new(stages: Vec<Value>, skip: Value) -> Self {
        let automaton = Automaton::compile(&pattern(stages, skip)).unwrap();
        let runs = Runs::new(&automaton);
        Play { automaton, runs, said: vec![] }
    }

    fn say(&mut self, told: Told<Event>, now: i64) {
        let text = |m: &Match<Event>| {
            let all = m.0.iter().flat_map(|(_, events)| events);
            all.map(|(c, n)| if *n == 0 { c.to_string() } else { format!("{c}{n}") }).collect::<Vec<_>>().join(" ")
        };
        self.said.extend(told.matches.iter().map(text));
        self.said.extend(told.timed_out.iter().map(|(m, at)| format!("{} out at {at} by {now}", text(m))));
    }

    /// `a1@5`: an event; `@7`: only the time. Without a time it is the number of the word.
    fn play(mut self, events: &str) -> Self {
        for (i, word) in events.split(' ').enumerate() {
            let (name, at) = word.split_once('@').map_or((word, i as i64 + 1), |(n, at)| (n, at.parse().unwrap()));
            let told = self.runs.advance(&self.automaton, at, true);
            self.say(told, at);
            if !name.is_empty() {
                let event = (name.chars().next().unwrap(), name[1..].parse().unwrap_or(0));
                let told = self.runs.process(&self.automaton, &event, at, &mut Letters(event)).unwrap();
                self.say(told, at);
            }
        }
        self
    }
}

fn found(text: &str, events: &str) -> Vec<String> {
    Play::new(stages(text), json!("no")).play(events).said
}

#[track_caller]
fn check(text: &str, events: &str, expected: &[&str]) {
    assert_eq!(found(text, events), expected, "`{text}` on `{events}`");
}

#[test]
fn contiguity() {
    check("a . b", "a c b1 b2", &[]);
    check("a -> b", "a c b1 b2", &["a b1"]);
    check("a ->> b", "a c b1 b2", &["a b1", "a b2"]);
    check("a -> b", "a1 a2 b", &["a1 b", "a2 b"]);
    check(
        "a ->> b ->> c",
        "a1 b1 a2 b2 c1 c2",
        &["a1 b1 c1", "a1 b2 c1", "a2 b2 c1", "a1 b1 c2", "a1 b2 c2", "a2 b2 c2"],
    );
}

#[test]
fn loops() {
    let b = "a b1 d b2 d b3 c";
    check("a . b+c . c", b, &[]);
    check("a -> b+c -> c", b, &["a b1 c"]);
    check("a ->> b+c -> c", b, &["a b1 c", "a b3 c", "a b2 c"]);
    check("a -> b+ -> c", b, &["a b1 b2 b3 c", "a b1 c", "a b1 b2 c"]);
    check("a -> b+x -> c", b, &["a b1 b2 b3 c", "a b1 c", "a b1 b3 c", "a b1 b2 c"]);
    check("a -> b+ -> c", "a b1 b2 b3 c", &["a b1 b2 b3 c", "a b1 c", "a b1 b2 c"]);
    let any = ["a b1 b2 b3 c", "a b3 c", "a b2 c", "a b2 b3 c", "a b1 c", "a b1 b2 c"];
    check("a ->> b+ -> c", "a b1 b2 b3 c", &any);
}

#[test]
fn times_and_optional_stages() {
    check("a? . b", "a b1 b2", &["a b1", "b1", "b2"]);
    check("a{2}", "a1 x a2 a3", &["a1 a2", "a2 a3"]);
    check("a{2}c", "a1 x a2 a3", &["a2 a3"]);
    check("a{2}x", "a1 x a2 a3", &["a1 a2", "a1 a3", "a2 a3"]);
    check("a{2,} -> b", "a1 a2 a3 b", &["a1 a2 a3 b", "a1 a2 b", "a2 a3 b"]);
    check("a -> b{1,2}", "a b1 b2 b3", &["a b1", "a b1 b2"]);
    check("s -> a* . b", "s a x b", &[]);
    check("s . a? -> b", "s x a b", &["s b"]);
    check("a -> b?", "a x b", &["a", "a b"]);
}

#[test]
fn negation() {
    check("a !-> n . e", "a x e", &[]);
    check("a !-> n ->> e", "a e1 n e2", &["a e1"]);
    check("a !. n", "a1 b a2 n", &["a1"]);
    // A match that the same event completes is kept.
    let mut same = stages("a !-> n -> e");
    same[1]["where"] = same[2]["where"].clone();
    assert_eq!(Play::new(same, json!("no")).play("a e").said, ["a e"]);
    check("a !-> n ->> c? ->> d", "a c n d", &["a c d"]);
    check("a !-> n ->> c? ->> d", "a n d", &[]);
}

#[test]
fn greedy_and_until() {
    check("a{1,2}g -> c", "a1 a2 a3 c", &["a2 a3 c", "a3 c"]);
    check("a+g -> b", "a1 a2 b", &["a1 a2 b", "a2 b"]);
    // On the stop event the run leaves the loop and lives on.
    check("a -> m+/z -> e", "a m1 z m2 e", &["a m1 e"]);
    check("a ->> m+x/z -> e", "a m1 z m2 e", &["a m1 e", "a m2 e"]);
}

fn group(text: &str, quantifier: &str, contiguity: &str) -> Value {
    let mut group = json!({"group": stages(text), "contiguity": contiguity});
    quantified(&mut group, quantifier);
    group
}

#[test]
fn groups() {
    let then = |group: Value| {
        let mut all = vec![group];
        let mut c = stage("c");
        c["contiguity"] = json!("skip_till_next");
        all.push(c);
        all
    };
    let play = |stages: Vec<Value>, events: &str| Play::new(stages, json!("no")).play(events).said;
    assert_eq!(play(then(group("a . b", "?", "strict")), "a b c"), ["a b c", "c"]);
    let found = play(then(group("a -> b", "+c", "strict")), "a1 x b1 a2 b2 x a3 b3 c");
    // Stage by stage: all of a, then all of b.
    assert_eq!(found, ["a1 a2 b1 b2 c", "a1 b1 c", "a2 b2 c", "a3 b3 c"]);
}

fn within(text: &str, ms: i64, previous: bool) -> Vec<Value> {
    let mut found = stages(text);
    let last = found.last_mut().unwrap();
    last[if previous { "within_previous" } else { "within" }] = json!(ms);
    found
}

#[test]
fn windows_and_what_is_given_up() {
    let play = |stages: Vec<Value>, events: &str| Play::new(stages, json!("no")).play(events).said;
    assert_eq!(play(within("a -> b", 5, false), "a@1 b@5"), ["a b"]);
    assert_eq!(play(within("a -> b", 5, false), "a@10 b@15"), ["a out at 15 by 15"]);
    let two = play(within("a ->> b ->> c", 5, false), "a@1 b@3 @6");
    assert_eq!(two, ["a b out at 6 by 6", "a out at 6 by 6"]);
    // A pattern that ends with what must not come is a match when its time is over.
    assert_eq!(play(within("a !-> n", 5, false), "a@1 x@6"), ["a"]);
    assert_eq!(play(within("a !-> n", 5, false), "a@10 n@14 @20"), [""; 0]);
    assert_eq!(play(within("a !-> n", 5, false), "a@20 n@25"), ["a"]);
    let mut times = stages("a -> m{2}");
    times[1]["times"]["window"] = json!(3);
    assert_eq!(play(times.clone(), "a@1 m1@2 m2@50"), ["a m1 m2"]);
    assert_eq!(play(times, "a@1 m1@10 m2@11"), ["a out at 4 by 10"]);
}

#[test]
fn skipping() {
    let play = |text: &str, skip: Value, events: &str| Play::new(stages(text), skip).play(events).said;
    let to = |way: &str, stage: &str| json!({way: {"stage": stage}});
    let b = "b1 b2 b3 c";
    assert_eq!(play("b+ -> c", json!("no"), b).len(), 6);
    assert_eq!(play("b+ -> c", json!("to_next"), b), ["b1 b2 b3 c", "b2 b3 c", "b3 c"]);
    assert_eq!(play("b+ -> c", json!("past_last"), b), ["b1 b2 b3 c"]);
    assert_eq!(play("b+ -> c", to("to_last", "b"), b), ["b1 b2 b3 c", "b3 c"]);
    // Those from b2 and b3 on wait: the loop that began with b1 lives.
    let first = Play::new(stages("b+ -> c"), to("to_first", "b")).play(b);
    assert_eq!(first.said, ["b1 b2 b3 c", "b1 b2 c", "b1 c"]);
    assert_eq!(first.runs.complete.len(), 3);
    let pairs = "a1 b1 a2 b2 c1 c2";
    assert_eq!(play("a ->> b ->> c", json!("to_next"), pairs), ["a1 b1 c1", "a2 b2 c1"]);
    assert_eq!(play("a ->> b ->> c", json!("past_last"), pairs), ["a1 b1 c1"]);
    assert_eq!(play("a ->> b ->> c", to("to_first", "b"), pairs), ["a1 b1 c1", "a2 b2 c1"]);
}

#[test]
fn a_throwing_strategy_leaves_all_as_it_was() {
    let skip = json!({"to_first": {"stage": "b", "throws": true}});
    let play = Play::new(stages("a -> b? -> c"), skip).play("a");
    let (automaton, mut runs) = (play.automaton, play.runs);
    let c = ('c', 0);
    let before = (runs.partial.iter().cloned().collect::<Vec<_>>(), runs.buffer.events.len());
    let failed = runs.process(&automaton, &c, 2, &mut Letters(c)).unwrap_err();
    assert_eq!(failed.0, "nothing_to_skip_to");
    assert_eq!((runs.partial.iter().cloned().collect::<Vec<_>>(), runs.buffer.events.len()), before);
}

#[test]
fn a_strategy_that_throws_blames_no_event_that_did_not_complete_the_match() {
    let skip = json!({"to_first": {"stage": "b", "throws": true}});
    let play = || Play::new(stages("a -> b? -> c"), skip.clone());
    // A match that was held back by an older run, and is set free when that is gone.
    let mut older = play().play("x a");
    let event = ('a', 2);
    older.runs.process(&older.automaton, &event, 3, &mut Letters(event)).unwrap();
    let held: Vec<Run> = older.runs.partial.iter().filter(|run| run.start_ms() == 3).cloned().collect();
    held.iter().for_each(|run| older.runs.buffer.lock(run.node.unwrap(), &run.version));
    older.runs.complete.offer_all(held);
    older.runs.partial.remove_all(|run| run.start.is_some());
    let x = ('x', 0);
    let told = older.runs.process(&older.automaton, &x, 4, &mut Letters(x)).unwrap();
    assert!(told.matches.is_empty() && older.runs.complete.is_empty());
    assert_eq!(told.missed.iter().map(|m| (m.0, m.1, m.2 .0)).collect::<Vec<_>>(), [(event, 3, "nothing_to_skip_to")]);
}

#[test]
fn a_condition_that_fails_leaves_all_as_it_was() {
    struct Fails;
    impl Conditions<Event> for Fails {
        fn holds(&mut self, _: u16, _: &History<'_, Event>) -> Result<bool, crate::expr::Fault> {
            Err(("bad_type", String::new()))
        }
    }
    let play = Play::new(stages("a ->> b ->> c"), json!("no")).play("a b");
    let (automaton, mut runs) = (play.automaton, play.runs);
    let before: Vec<_> = runs.partial.iter().cloned().collect();
    assert_eq!(runs.process(&automaton, &('c', 0), 9, &mut Fails).unwrap_err().0, "bad_type");
    assert_eq!(runs.partial.iter().cloned().collect::<Vec<_>>(), before);
}

#[test]
fn nothing_stays_in_the_buffer_that_nobody_needs() {
    let play = Play::new(within("a ->> b ->> c", 50, false), json!("no")).play("a b c a b c x@100 x@200");
    assert!(play.runs.idle());
    assert!(play.runs.buffer.events.is_empty() && play.runs.buffer.nodes.is_empty());
}

#[test]
fn what_is_refused() {
    let refused = |stages: Vec<Value>, skip: Value| Automaton::compile(&pattern(stages, skip)).unwrap_err();
    let plain = |text: &str| refused(stages(text), json!("no"));
    assert!(plain("a -> a").message.contains("the name `a` is taken"));
    assert!(plain("a !-> n").message.contains("`n` ends the pattern"));
    let missed = refused(stages("a -> b"), json!({"to_last": {"stage": "c"}}));
    assert!(missed.message.contains("no stage `c` to skip to"));
    let mut longer = within("a -> b", 5, false);
    longer[1]["within_previous"] = json!(6);
    assert!(refused(longer, json!("no")).message.contains("longer than the whole"));
    // What Flink takes and then hangs or fails at.
    let hangs = vec![group("a?", "+", "strict"), stages("x -> b").remove(1)];
    assert!(refused(hangs, json!("no")).message.contains("can match nothing at all"));
    let mut fails = vec![group("a?", "", "strict"), stages("x !-> n").remove(1)];
    fails[1]["within"] = json!(5);
    let failing = refused(fails, json!("no")).message;
    assert!(failing.contains("nothing need have come before `n`"), "{failing}");
}

/// What a key has after an `a`, and then one more event, which no run goes on with.
fn after_a_dead_run(stages: Vec<Value>) -> keyed::Keyed<Event> {
    let watched = keyed::Watched {
        automata: vec![Automaton::compile(&pattern(stages, json!("no"))).unwrap()],
        lives: vec![keyed::Life::ALWAYS],
        timed_out: vec![true],
        lag: 0,
    };
    struct AtHand;
    impl Conditions<Event> for AtHand {
        fn holds(&mut self, condition: u16, history: &History<'_, Event>) -> Result<bool, crate::expr::Fault> {
            Ok(history.event.0 as u32 == u32::from(condition))
        }
    }
    let mut keyed = keyed::Keyed::of(1);
    for (ts, letter) in [(1, 'a'), (2, 'x')] {
        keyed.arrive((letter, 0), ts, 0, Known::default(), &watched);
        assert!(!keyed.empty());
        keyed.fire(&watched, ts, &mut |_| (), &mut AtHand, &mut vec![]);
    }
    keyed
}

#[test]
fn a_key_whose_runs_are_gone_has_nothing_but_looks_that_later_runs_may_need() {
    let mut stages = within("a . b", 100, false);
    assert!(after_a_dead_run(stages.clone()).empty());
    stages[1]["within_previous"] = json!(10);
    assert_eq!(after_a_dead_run(stages).next_due(), Some(101));
}
