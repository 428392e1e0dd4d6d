//! The bulk processor while its server goes down.

use perennial_it::{Bulk, until};
use perennial_testkit::postgres::PrivateServer;

use crate::BULK_PROCESSOR;

#[test]
fn a_server_that_is_down_for_a_while_only_delays_the_run() {
    // The machine does not crash, only the server: what it wrote is there without a flush.
    let server = PrivateServer::start_with(&["fsync = off"]);
    for durable in [&[][..], &["--durable"]] {
        let bulk = Bulk::on(BULK_PROCESSOR, server.new_database())
            .with_rows(1200)
            .with(&["--spoil", "5", "--batch", "50", "--report", "report.json"])
            .with(durable);
        server.stop();
        let mut run = bulk.start(&["--rate", "600"]);
        assert!(run.wait_for("does not answer"), "{}", run.said());
        server.start_again();
        assert!(run.wait_for("Storing "), "{}", run.said());
        for stored in [100, 500] {
            until("rows are stored", || bulk.stored() > stored);
            server.stop();
            server.start_again();
        }
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let report = bulk.report();
        assert_eq!(report["stored"], 1195, "{}", ended.said);
        assert_eq!(report["set_aside"], 5, "{}", ended.said);
    }
}
