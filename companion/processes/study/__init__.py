"""What mainly the chapter calls: experiments, workloads, figures."""
