//! Questions to actors and of actors: work outside, replies that come later, deadlines, cycles.

use perennial_core::{AskError, Failure};
use tokio::sync::oneshot;

use crate::actor_fixture::{Teller, for_seeds, ms, one, quickly, run, told};

#[test]
fn what_comes_back_for_a_value_that_is_gone_is_not_handled() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let mut opens = Vec::new();
        let asked: Vec<_> = (0..2)
            .map(|_| {
                let (open, opened) = oneshot::channel::<()>();
                opens.push(open);
                t.task(actor.ask(run::<()>(move |_, cx| {
                    cx.later(opened, |_, _: &mut Teller, _| Err(Failure::new("broken")))
                })))
            })
            .collect();
        // Both come back at once; the first one that is handled costs the value.
        for open in opens {
            open.send(()).expect("it waits");
        }
        t.advance(ms(5));
        let mut answers: Vec<_> = asked.into_iter().map(|asked| asked.output()).collect();
        answers.sort_by_key(|answer| matches!(answer, Err(AskError::Unknown { .. })));
        assert!(matches!(
            answers[..],
            [Err(AskError::Failed { .. }), Err(AskError::Unknown { .. })]
        ));
        assert_eq!(told(&lines), ["restarting: broken", "started"]);
    });
}
