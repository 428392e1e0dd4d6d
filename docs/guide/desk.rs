use std::collections::BTreeMap;
use std::time::Duration;

use perennial::prelude::*;
use perennial::{Failure, Recipient, StopReason, Supervision, Terminated};

/// Takes questions of customers; each customer has a case of its own.
pub struct Desk {
    archive: Recipient<Closed>,
    open: BTreeMap<String, ActorRef<Case>>,
}

impl Desk {
    pub fn new(archive: Recipient<Closed>) -> Self {
        let open = BTreeMap::new();
        Self { archive, open }
    }
}

impl Actor for Desk {
    fn terminated(
        &mut self,
        terminated: &Terminated,
        _: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        self.open.retain(|_, case| !terminated.is(case));
        Ok(())
    }
}

pub struct Question {
    pub customer: &'static str,
    pub text: &'static str,
}

impl Receive<Question> for Desk {
    /// How many questions the customer has asked by now.
    type Reply = Result<u32, AskError>;

    fn receive(
        &mut self,
        question: Question,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, Self::Reply> {
        let customer = question.customer;
        let case = match self.open.get(customer) {
            Some(case) => case.clone(),
            None => {
                let archive = self.archive.clone();
                let props = Props::new(move || Case::new(customer, archive.clone()))
                    .supervision(Supervision::restart().backoff(SECOND, SECOND).jitter(0.0));
                let case = cx.spawn(customer, props)?;
                cx.watch(&case);
                self.open.insert(customer.to_owned(), case.clone());
                case
            }
        };
        cx.ask(&case, Another(question.text), |number, _, cx| {
            cx.reply(number)
        })
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// The questions of one customer; closed after half an hour without one.
pub struct Case {
    customer: &'static str,
    pub questions: u32,
    archive: Recipient<Closed>,
}

/// What the archive gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    pub customer: &'static str,
    pub questions: u32,
}

impl Case {
    fn new(customer: &'static str, archive: Recipient<Closed>) -> Self {
        Self {
            customer,
            questions: 0,
            archive,
        }
    }
}

impl Actor for Case {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        cx.set_receive_timeout(Duration::from_secs(30 * 60));
        Ok(())
    }

    fn receive_timeout(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        cx.stop();
        Ok(())
    }

    fn stopped(&mut self, _: &StopReason, _: &mut ActorCx<'_, Self>) {
        let (customer, questions) = (self.customer, self.questions);
        // Nobody is left whom it would help to know that the archive is full.
        let _ = self.archive.tell(Closed {
            customer,
            questions,
        });
    }
}

pub struct Another(pub &'static str);

impl Receive<Another> for Case {
    type Reply = u32;

    fn receive(&mut self, question: Another, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        if question.0.is_empty() {
            return Err(Failure::new("a question without words"));
        }
        self.questions += 1;
        cx.reply(self.questions)
    }
}
