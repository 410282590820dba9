{{/* Written by `bin/validate-chart --update` from values.yaml: what is filled in where a value is absent. */}}
{{- define "llm-proxy.defaults" -}}
image:
  repository: llm-proxy
  tag: ''
  digest: ''
  pullPolicy: IfNotPresent
imagePullSecrets: []
nameOverride: ''
fullnameOverride: ''
kubeVersionOverride: ''
commonLabels: {}
commonAnnotations: {}
global: {}
replicaCount: 1
revisionHistoryLimit: 5
strategy: {}
deploymentAnnotations: {}
podAnnotations: {}
podLabels: {}
terminationGracePeriodSeconds: 150
lifecycle:
  preStopSleepSeconds: 5
service:
  type: ClusterIP
  port: 8080
  targetPort: 8080
  annotations: {}
ingress:
  enabled: false
  className: ''
  annotations: {}
  hosts:
  - host: chart-example.local
    paths:
    - path: /
      pathType: Prefix
  tls: []
trustedProxies: []
autoscaling:
  enabled: false
  minReplicas: 1
  maxReplicas: 10
  behavior: {}
podDisruptionBudget:
  enabled: true
  maxUnavailable: 1
env: {}
extraEnv: []
extraEnvFrom: []
config:
  apiProviders: ''
  existingConfigMap: ''
secrets:
  create: false
  generate: false
  data:
    managementToken: ''
    databaseUrl: ''
    encryptionKey: ''
  managementToken:
    existingSecret:
      name: ''
      key: MANAGEMENT_TOKEN
  managementTokenPrevious:
    existingSecret:
      name: ''
      key: MANAGEMENT_TOKEN_PREVIOUS
  databaseUrl:
    existingSecret:
      name: ''
      key: DATABASE_URL
  encryptionKey:
    required: false
    existingSecret:
      name: ''
      key: ENCRYPTION_KEY
  encryptionKeyPrevious:
    existingSecret:
      name: ''
      key: ENCRYPTION_KEY_PREVIOUS
persistence:
  enabled: true
  existingClaim: ''
  storageClass: ''
  accessMode: ReadWriteOnce
  size: 1Gi
  retain: true
migrations:
  mode: init
  resources: {}
postgresql:
  enabled: false
  image:
    repository: postgres
    tag: '17.6'
    pullPolicy: IfNotPresent
  auth:
    username: llmproxy
    database: llmproxy
    password: ''
    existingSecret: ''
    secretKeys:
      adminPasswordKey: postgres-password
      userPasswordKey: password
  sslMode: require
  tls:
    enabled: true
    existingSecret: ''
  primary:
    persistence:
      enabled: true
      storageClass: ''
      accessMode: ReadWriteOnce
      size: 8Gi
    resources: {}
  podSecurityContext: {}
  securityContext: {}
mysql:
  enabled: false
  image:
    repository: mysql
    tag: 8.4.5
    pullPolicy: IfNotPresent
  auth:
    rootPassword: ''
    database: llmproxy
    username: llmproxy
    password: ''
    existingSecret: ''
    secretKeys:
      rootPasswordKey: mysql-root-password
      userPasswordKey: mysql-password
  persistence:
    enabled: true
    storageClass: ''
    size: 10Gi
    accessMode: ReadWriteOnce
  resources: {}
  extraConfig:
    maxConnections: 200
    characterSet: utf8mb4
    collation: utf8mb4_unicode_ci
  tls:
    enabled: false
    skipVerify: false
    existingSecret: ''
  podSecurityContext: {}
  securityContext: {}
redis:
  enabled: false
  external:
    addr: ''
    db: 0
    username: ''
    password:
      existingSecret:
        name: ''
        key: REDIS_PASSWORD
    tls:
      enabled: false
      caSecret: ''
dispatcher:
  enabled: false
  replicaCount: 1
  service: file
  endpoint: ''
  apiKey:
    existingSecret:
      name: ''
      key: DISPATCHER_API_KEY
  config:
    bufferSize: 1000
    batchSize: 100
  env: {}
  persistence:
    enabled: true
    existingClaim: ''
    size: 10Gi
    storageClass: ''
    accessMode: ReadWriteOnce
    retain: true
  health:
    port: 9090
  resources: {}
  livenessProbe: {}
  readinessProbe: {}
  terminationGracePeriodSeconds: 30
  podAnnotations: {}
  podLabels: {}
  podSecurityContext: {}
  securityContext: {}
  nodeSelector: {}
  tolerations: []
  affinity: {}
admin:
  enabled: false
  listenAddr: :8081
  apiBaseUrl: ''
  service:
    type: ClusterIP
    port: 8081
    annotations: {}
  ingress:
    enabled: false
    className: ''
    annotations: {}
    hosts:
    - host: admin.chart-example.local
      paths:
      - path: /
        pathType: Prefix
    tls: []
  resources: {}
  livenessProbe: {}
  readinessProbe: {}
  podAnnotations: {}
  nodeSelector: {}
  tolerations: []
  affinity: {}
metrics:
  enabled: false
  path: /metrics/prometheus
  portName: http
  annotations: {}
  serviceMonitor:
    enabled: false
    labels: {}
    namespace: ''
    interval: 30s
    scrapeTimeout: 10s
    dispatcher: true
  grafanaDashboard:
    enabled: false
    labels: {}
    annotations: {}
  redisDashboard:
    enabled: false
    labels: {}
    annotations: {}
  prometheusRule:
    enabled: false
    labels: {}
    thresholds:
      errorPercent: 5
      noTrafficMinutes: 60
      notReadyMinutes: 5
      dispatcherLag: 1000
      circuitOpenMinutes: 2
resources: {}
startupProbe: {}
livenessProbe: {}
readinessProbe: {}
nodeSelector: {}
tolerations: []
affinity: {}
topologySpreadConstraints: []
priorityClassName: ''
serviceAccount:
  create: true
  name: ''
  annotations: {}
  automount: false
podSecurityContext: {}
securityContext: {}
networkPolicy:
  enabled: false
  ingressFrom: []
  allowExternalEgress: true
  extraEgress: []
initContainers: []
sidecars: []
volumes: []
volumeMounts: []
tests:
  enabled: true
{{- end -}}
