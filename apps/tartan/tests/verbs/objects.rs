//! What policies are made of, as `get` and `delete` show and name it.

use crate::harness::Agent;

#[test]
fn what_policies_are_made_of_has_tables() {
    let agent = Agent::new();
    let shown = |words: &[&str]| agent.tartan(words).stdout;
    insta::assert_snapshot!(shown(&["get", "netpol"]), @r"
    NAMESPACE   NAME   PODS                         INGRESS   EGRESS    FROM
    shop        web    app=web,tier in (a,b),!old   2 rules   nothing   shop.yaml:3
    default     deny   all                          1 rule    -         -
    ");
    insta::assert_snapshot!(shown(&["get", "pods"]), @r"
    NAMESPACE   NAME    LABELS    PORTS                  ACCOUNT   FROM
    shop        web-0   app=web   http=8080/TCP,53/UDP   robot     -
    default     x       -         -                      -         -
    ");
    insta::assert_snapshot!(shown(&["get", "ns"]), @r"
    NAME   LABELS           FROM
    shop   team=blue,x/y=   -
    ");
    insta::assert_snapshot!(shown(&["get", "sa"]), @"no ServiceAccounts");
    agent.asked();
    for (words, name) in [
        (["get", "netpol", "web"], "default/web"),
        (["get", "sa", "shop/robot"], "shop/robot"),
        (["delete", "po", "web-0"], "default/web-0"),
        (["delete", "ns", "shop"], "shop"),
    ] {
        agent.tartan(&words);
        let asked = agent.asked();
        let verb = asked[0].as_object().unwrap().values().next().unwrap();
        assert_eq!(verb["name"], name, "{words:?}");
    }
}
