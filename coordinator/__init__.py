"""zt-coordinator: the control plane: store, management API, enrolment, push, log intake."""
